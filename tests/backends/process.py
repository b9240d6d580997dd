"""The real server as a process, on a port that the system chose."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx


class ServerProcess:
    """`python -m backends.cli` over a model repository."""

    def __init__(self, models: Path, *options: str) -> None:
        command = [sys.executable, "-m", "backends.cli", "--models", str(models), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.lines: list[str] = []
        self.address = self._wait_for_address()
        self.url = f"http://{self.address}"

    def _wait_for_address(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r"listening on http://(\S+)", line):
                return match[1]
        raise AssertionError(f"the server ended: {''.join(self.lines)}")

    def wait_ready(self, limit: float = 60.0) -> None:
        end = time.monotonic() + limit
        while httpx.get(f"{self.url}/v2/health/ready", timeout=limit).status_code != 200:
            assert time.monotonic() < end, "the server did not become ready"
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            _, rest = self.process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        self.lines.append(rest)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        if self.process.stderr is not None:
            self.process.stderr.close()

    @property
    def log(self) -> str:
        return "".join(self.lines)
