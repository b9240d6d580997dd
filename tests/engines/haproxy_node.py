"""A real HAProxy and its agent as a node of a gateway."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.children import free_port
from gateway.engines.haproxy.sockets import command
from tests.engines.node import EnvoyNode, wait_for
from tests.support.command import turnout
from tests.support.processes import GatewayProcess

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
NEEDS_HAPROXY = pytest.mark.skipif(HAPROXY is None, reason="no haproxy here: apt-get install haproxy")


class HaproxyNode(EnvoyNode):
    """Started, with its agent, from what ``turnout engine bootstrap`` prints."""

    def __init__(self, gateway: GatewayProcess, name: str, *, engine: str = "edge") -> None:
        self.name = name
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        # The path of a socket has at most 107 bytes, fewer than the folders of tests.
        self.files = Path("/tmp") / f"turnout-{self.port}"
        self.path = gateway.folder / f"{name}.cfg"
        self.log_path = gateway.folder / f"{name}.log"
        words = ["engine", "bootstrap", engine, "--config", str(gateway.path), "--node", name]
        done = turnout(*words, "--listen", self.address, "--files", str(self.files))
        assert done.returncode == 0, done.stderr
        self.path.write_text(done.stdout)
        self.start_agent()
        wait_for((self.files / "routes.cfg").exists, f"the agent has written its files: {self.log}")
        self.start()

    def start_agent(self) -> None:
        self.agent = self._run(sys.executable, "-m", "gateway.cli", "engine", "agent", str(self.path))

    def start(self) -> None:
        assert HAPROXY is not None
        files = ["-f", str(self.path), "-f", str(self.files / "routes.cfg")]
        self.process = self._run(HAPROXY, "-W", "-S", str(self.files / "master.sock"), *files)

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log)

    def worker(self) -> str:
        """The process that accepts connections now."""
        info = asyncio.run(command(self.files / "admin.sock", "show info"))
        return next(line for line in info.splitlines() if line.startswith("Pid:"))

    def old_workers(self) -> int:
        """Processes that serve the rest of their connections after a reload; -1 while the master starts again."""
        try:
            text = asyncio.run(command(self.files / "master.sock", "show proc"))
        except OSError:
            return -1
        return text.partition("# old workers")[2].partition("#")[0].count("worker")

    def kill(self) -> None:
        # SIGTERM: a master that is killed leaves its worker behind.
        for process in (self.process, self.agent):
            process.terminate()
            process.wait(30)
        shutil.rmtree(self.files, ignore_errors=True)
