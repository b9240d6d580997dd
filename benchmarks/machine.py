"""What the figures were measured on: cores and versions, never a name of a host."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the proxy alone on one core, backend and load generator beside it."""

    proxy: tuple[int, ...]
    backend: tuple[int, ...]
    load: tuple[int, ...]


def cores() -> Cores:
    """One core for the proxy; the next for the backend; a third for the load if there is one."""
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        raise SystemExit("the benchmark needs at least 2 cores: one for the proxy, one for load and backend")
    return Cores(proxy=(free[0],), backend=(free[1],), load=(free[min(2, len(free) - 1)],))


def needs(tool: str, how: str) -> str:
    """The path of a program, next to the interpreter or in PATH; exits if it is missing. ``how``: what installs it."""
    found = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    if found is None:
        raise SystemExit(f"this benchmark needs {tool}; install it with: {how}")
    return found


def facts() -> dict[str, object]:
    """Cores, processor, memory, kernel and python; no host name, no address, no path."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "placement": asdict(cores()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def raise_open_files() -> int:
    """Lifts the soft limit to the hard one, for this process and its children; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def package(name: str) -> str:
    """The installed version of a Python distribution, or "" where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def first_line(*command: str) -> str:
    """The first line that ``command`` prints to either stream."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=30)
    return done.stdout.decode(errors="replace").strip().split("\n")[0]
