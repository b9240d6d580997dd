"""The real gateway as a process, on a port of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx

from benchmarks.children import free_port


def children(pid: int) -> list[int]:
    """The workers of a supervisor."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line]


class GatewayProcess:
    """`turnout run` over a configuration in which @PORT@ and @DIR@ stand for the port and a directory."""

    def __init__(self, folder: Path, config: str, *options: str, ready: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.path = folder / "turnout.yaml"
        self.template = config
        self.options = options
        self.write(config)
        self.log_path = folder / "gateway.log"
        self.start(ready=ready)

    def write(self, config: str) -> None:
        text = config.replace("@PORT@", str(self.port)).replace("@DIR@", str(self.folder))
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    def start(self, *, ready: bool = True) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "run", "--config", str(self.path), *self.options],
                stderr=log,
                stdout=log,
            )
        if ready:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()  # nobody else knows of it
                raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ready(self, limit: float = 60.0) -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the gateway ended:\n{self.log}"
            try:
                if httpx.get(f"{self.url}/-/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the gateway did not become ready:\n{self.log}")

    def kill(self) -> None:
        """The process alone; workers that it has go on until they notice."""
        self.process.kill()
        self.process.wait()

    def crash(self) -> None:
        """All its processes at once, as when the machine stops."""
        for pid in (self.process.pid, *children(self.process.pid)):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, limit: float = 40.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
