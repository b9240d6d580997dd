"""A model server as a process of its own."""

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

ROOT = Path(__file__).parent.parent.parent


class ServerProcess:
    """Runs ``python -m MODULE PORT OPTIONS`` (gunicorn: ``--bind`` and the port), and is ready when ``/healthz``
    is 200."""

    def __init__(self, module: str, *options: str, says: str = "sound") -> None:
        self.port = free_port()
        where = ["--bind", f"127.0.0.1:{self.port}"] if module == "gunicorn" else [str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *where, *options],
            cwd=ROOT,
            env={**os.environ, "SAYS": says},
            start_new_session=True,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self, limit: float = 60.0) -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            assert self.process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError("the server did not become ready")

    def kill(self) -> None:
        """With its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
