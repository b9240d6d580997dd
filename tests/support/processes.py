"""Servers as processes of their own: the gateway, the bundled model server, and others that tests bring."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import httpx

from benchmarks.children import free_port
from tests.support.forked import Forked

ROOT = Path(__file__).parent.parent.parent


def children(pid: int, command: str = "gateway.cli") -> list[int]:
    """The processes started by ``pid`` whose command line has ``command``; by default a supervisor's workers."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if command in line]


class ServerProcess:
    """A process with its log, ended with the block that it is used in."""

    process: Forked | subprocess.Popen[bytes]
    address: str
    """``host:port``."""
    ready_path: str
    """What is responded to with 200 once the server is ready."""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def log(self) -> str:
        raise NotImplementedError

    def wait_ready(self, limit: float = 60.0) -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended:\n{self.log}"
            try:
                if httpx.get(self.url + self.ready_path, timeout=limit).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the server did not become ready:\n{self.log}")

    def kill(self) -> None:
        """The process alone; workers that it has go on until they notice."""
        self.process.kill()
        self.process.wait()

    def stop(self, limit: float = 90.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class GatewayProcess(ServerProcess):
    """`turnout run` over a configuration in which @PORT@ and @DIR@ stand for the port and a directory."""

    ready_path = "/-/readyz"
    module = "gateway.cli"

    def __init__(self, folder: Path, config: str, *options: str, ready: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
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
            words = ["run", "--config", str(self.path), *self.options]
            self.process = Forked(self.module, *words, stdout=log, stderr=log)
        if ready:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()  # no one else knows of it
                raise

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def crash(self) -> None:
        """All its processes together, as when the machine stops."""
        for pid in (self.process.pid, *children(self.process.pid)):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        host, _, port = self.address.rpartition(":")
        with contextlib.suppress(ConnectionError):  # a worker of a busy machine takes a moment to die
            while True:
                socket.create_connection((host, int(port)), timeout=60.0).close()


class ModelServerProcess(ServerProcess):
    """`python -m backends.cli` over a model repository, on a port that the system chose."""

    ready_path = "/v2/health/ready"

    def __init__(self, models: Path | str, *options: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the block
        words = ["--models", str(models), "--port", "0", *options]
        self.process = Forked("backends.cli", *words, stderr=self._log)
        self.address = self.announced(r"listening on http://(\S+)")

    def announced(self, pattern: str, limit: float = 120.0) -> str:
        """The group of ``pattern`` in the log, once it is there."""
        end = time.monotonic() + limit
        while (match := re.search(pattern, self.log)) is None:
            ended = self.process.poll() is not None
            assert not ended or re.search(pattern, self.log), f"the server ended: {self.log}"
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        return match[1]

    @property
    def log(self) -> str:
        if self._log.closed:
            return self._text
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._text = self.log
        self._log.close()


class ModuleProcess(ServerProcess):
    """``python -m MODULE PORT OPTIONS`` (gunicorn: ``--bind`` and the port), which says ``says`` of itself."""

    ready_path = "/healthz"

    def __init__(self, module: str, *options: str, says: str = "sound") -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        where = ["--bind", self.address] if module == "gunicorn" else [str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *where, *options],
            cwd=ROOT,
            env={**os.environ, "SAYS": says},
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return ""

    def kill(self) -> None:
        """With its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()


def ended(pid: int) -> bool:
    """Whether the process is gone, or is only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
