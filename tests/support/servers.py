"""Real Redis servers on loopback, each on a port of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.children import free_port


class RedisServer:
    """One redis-server process; `stop` and `start` keep its data."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.binary = shutil.which("redis-server") or ""
        if not self.binary:
            pytest.fail("redis-server is missing; 'make test' installs it")
        self.port = free_port()
        self.directory = directory
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *self.options]
        with (self.directory / "redis.log").open("ab") as log:
            begin = log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        # Not by PING: with a password it gets NOAUTH while the files are still being loaded.
        deadline = time.monotonic() + 60
        while b"Ready to accept connections" not in self._log()[begin:]:
            if time.monotonic() > deadline:
                pytest.fail(self._log().decode())
            time.sleep(0.02)

    def _log(self) -> bytes:
        return (self.directory / "redis.log").read_bytes()

    def send(self, command: str) -> str:
        """One inline command, its raw answer ("" when nobody listens)."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as link:
                link.sendall(command.encode() + b"\r\n")
                return link.recv(65536).decode()
        except OSError:
            return ""

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def redis_cluster(directory: Path) -> Iterator[RedisServer]:
    """A cluster of one node: it refuses whatever touches two slots at once, like any cluster."""
    with redis_server(directory, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        server.send("CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + 60
        while "cluster_state:ok" not in server.send("CLUSTER INFO"):
            assert time.monotonic() < deadline, server.send("CLUSTER INFO")
            time.sleep(0.05)
        yield server
