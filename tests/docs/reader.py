"""A reader who follows a page: its blocks run as they stand, on free ports instead of the page's."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.children import free_ports

ROOT = Path(__file__).parents[2]
GATEWAY = "8080"
WARDEN = 'while read -r group; do groups="$groups $group"; done; kill -KILL -- $groups'
"""Ends the groups of processes that it was told when its input ends: also when pytest is killed."""


def blocks(page: str, kind: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def wait_for(condition: Callable[[], bool], what: str, limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def responds(url: str) -> bool:
    """Whether a server is there and, at `/-/readyz`, ready."""
    try:
        return httpx.get(url).status_code < 500
    except httpx.HTTPError:
        return False


class Reader:
    """A directory to work in. ``ports`` are those that the page names; the gateway's is 8080."""

    def __init__(self, folder: Path, *ports: str, ending: signal.Signals = signal.SIGKILL) -> None:
        self.folder = folder
        self.ending = ending
        names = (GATEWAY, *ports)
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._groups: list[int] = []

    def __enter__(self) -> Self:
        self._warden = subprocess.Popen(
            ["bash", "-c", WARDEN], stdin=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End what the shells left running in the background."""
        for sent in (self.ending, signal.SIGKILL):
            for group in self._groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, sent)
            end = time.monotonic() + 60
            while any(map(_alive, self._groups)) and time.monotonic() < end:
                time.sleep(0.02)
        self._warden.kill()
        self._warden.communicate()

    def started_apart(self) -> Reader:
        """The same directory and ports, for what ends before the rest does."""
        other = Reader(self.folder, ending=signal.SIGTERM)
        other.ports = self.ports
        return other

    def route(self, name: str, port: str = GATEWAY) -> dict[str, Any]:
        """What `turnout status` shows, as JSON."""
        found: dict[str, Any] = httpx.get(f"{self.url(port)}/-/routes/{name}").json()
        return found

    def url(self, port: str = GATEWAY) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def translated(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(self.ports)})\b", lambda found: str(self.ports[found[1]]), text)

    def save(self, name: str, text: str) -> None:
        """As an editor would: the file is replaced whole."""
        new = self.folder / f"{name}.new"
        new.write_text(self.translated(text))
        new.replace(self.folder / name)

    def shell(self, text: str) -> str:
        """Run a block; the output of its foreground and background processes until it ends."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TURNOUT_URL": self.url()}
        out = self.folder / f"{len(list(self.folder.glob('*.out')))}.out"
        with out.open("w") as file:
            bash = subprocess.Popen(
                ["bash", "-c", self.translated(text)],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._groups.append(bash.pid)
        assert self._warden.stdin is not None
        self._warden.stdin.write(b"-%d\n" % bash.pid)
        code = bash.wait(120)
        assert code == 0, f"{text}\n{out.read_text()}"
        return out.read_text()

    def wait(self, *ports: str) -> None:
        """Until the servers at these ports respond."""
        for port in ports:
            wait_for(partial(responds, self.url(port)), f"nothing responds at {port}")

    def wait_ready(self, port: str = GATEWAY) -> None:
        """Until the gateway at this port is ready."""
        wait_for(partial(responds, f"{self.url(port)}/-/readyz"), f"the gateway at {port} is not ready")


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
