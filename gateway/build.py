"""Which form of the sources runs: interpreted, or (in part) compiled by mypyc.

Both forms are the same sources. What is compiled are the modules that every request passes through, or its row from
another proxy; a build (``deploy/compiled.py``) puts extension modules next to them, which Python prefers to the
sources, and with them a digest of the sources that they were made from. So a compiled module that is older than its
source never runs unnoticed: `fault` finds it.
"""

from __future__ import annotations

import hashlib
import importlib
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final, Literal

Form = Literal["compiled", "interpreted"]

ROOT: Final = Path(__file__).resolve().parent.parent
"""The directory that holds the packages."""
LIBRARY: Final = "turnout__mypyc"
"""The extension module with all the code; those next to the sources only lead to it."""
SUFFIX: Final = EXTENSION_SUFFIXES[0]
"""Of the extension modules that are for this interpreter alone."""
STAMP: Final = "gateway._stamp"
"""What a build adds, compiled into the same library: the digest, and what made it."""
PARTS: Final = (
    "gateway/dataplane",
    "gateway/transport",
    "gateway/http",
    "gateway/http2",
    "gateway/auth/principal.py",
    "gateway/ingest/ring.py",
    "gateway/runtime/loop_load.py",
    "gateway/record/decision_id.py",
    "gateway/record/stamp.py",
    "gateway/engines/rows.py",
    "gateway/engines/kubernetes/rows.py",
    "policies/allocation/bucketing.py",
    "policies/allocation/model.py",
    "policies/ejection.py",
)
"""Files, or directories whose modules are compiled."""
LEFT_OUT: Final = frozenset(
    {"gateway/dataplane/shadow/comparer.py", "gateway/dataplane/request/json_body.py"}
)
"""Tasks, threads and processes of the slow path, and what the standard library does in C: nothing to gain."""


def sources(root: Path = ROOT) -> dict[str, Path]:
    """The sources below ``root`` that a build compiles, by their path relative to it, in a fixed order."""
    found = [path for part in PARTS for path in _modules(root / part)]
    named = {path.relative_to(root).as_posix(): path for path in found}
    return {name: named[name] for name in sorted(named) if name not in LEFT_OUT}


def _modules(place: Path) -> Iterable[Path]:
    return [place] if place.suffix else (p for p in place.rglob("*.py") if p.name != "__init__.py")


def digests(files: Mapping[str, Path]) -> str:
    """A line for each of ``files``: its SHA-256 and its name."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {name}\n" for name, path in files.items()
    )


def extension(source: Path) -> Path:
    """The extension module that this interpreter would take instead of ``source``."""
    return source.with_suffix(SUFFIX)


def form(root: Path = ROOT) -> Form:
    """What runs, as far as files tell; `fault` says whether it can be relied on."""
    return "compiled" if extension(root / "gateway" / "_stamp.py").exists() else "interpreted"


def fault(root: Path = ROOT, made_from: str | None = None) -> str:
    """Why the build below ``root`` must not run, and what to do; "" where it may.

    ``made_from``: the digests that it was made from; None asks its stamp.
    """
    files = sources(root)
    compiled = [name for name, path in files.items() if extension(path).exists()]
    if form(root) == "interpreted":
        wrong = compiled and f"There are compiled modules ({compiled[0]}) without the stamp of their build"
    elif lacking := sorted(files.keys() - set(compiled)):
        wrong = f"The compiled build lacks {_few(lacking)}"
    else:
        known = str(importlib.import_module(STAMP).DIGESTS) if made_from is None else made_from
        changed = set(digests(files).splitlines()) ^ set(known.splitlines())
        names = sorted({line.partition(" ")[2] for line in changed})
        wrong = names and f"Changed since the build was compiled: {_few(names)}"
    return (
        f"{wrong}; run 'make compiled' to build it again, or 'make interpreted' to remove it."
        if wrong
        else ""
    )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@cache
def version() -> str:
    """Of the distribution; "0" where it is run from a checkout that was never installed."""
    try:
        return version_of("turnout")
    except PackageNotFoundError:
        return "0"


@cache
def compiler() -> str:
    """What made the compiled modules ("mypyc 1.2.3"); "" where none run."""
    return str(importlib.import_module(STAMP).COMPILER) if form() == "compiled" else ""


def described() -> str:
    """One line for people: version, form and interpreter."""
    how = f"compiled by {compiler()}" if compiler() else "interpreted"
    return f"turnout {version()} ({how}), {platform.python_implementation()} {platform.python_version()}"
