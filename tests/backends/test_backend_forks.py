"""Models that fork processes, start threads, and replace signal handlers."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from tests.backends.repositories import write_model
from tests.support.processes import ModelServerProcess

FORKER = """
import multiprocessing, os, threading, time, torch

def wait(parent):
    while os.getppid() == parent:
        time.sleep(0.05)

class Model(torch.nn.Module):
    def forward(self, x):
        context = multiprocessing.get_context("fork")
        if x.max() == 1:
            context.Process(target=wait, args=(os.getpid(),)).start()
        if x.max() == 2:
            os.fork()
        if x.max() == 3:
            with context.Pool(1) as pool:
                pool.apply(abs, (-1,))
        if x.max() == 4:
            threading.Thread(target=time.sleep, args=(1000,)).start()
        return x + 1
"""


def ask(client: httpx.Client, value: float) -> httpx.Response:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return client.post("/v2/models/forker/infer", json={"inputs": [tensor]})


@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
def test_what_a_model_forks_or_starts_holds_no_connection_and_serves_nothing(
    tmp_path: Path, executor: str
) -> None:
    write_model(tmp_path, "forker", FORKER, {"x": ("FP32", [1])}, {"y": ("FP32", [1])}, executor=executor)
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready()
        host, port = server.address.split(":")
        live = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: %b\r\n\r\n"
        with (
            httpx.Client(base_url=server.url) as client,
            socket.create_connection((host, int(port)), 30) as early,
        ):
            early.sendall(live % b"keep-alive")
            assert early.recv(9) == b"HTTP/1.1 "
            for value in (1.0, 2.0, 3.0, 2.0, 4.0):
                assert ask(client, value).json()["outputs"][0]["data"] == [value + 1]
            early.sendall(live % b"close")
            while early.recv(4096):
                pass  # until the end, which a copy of the connection would hold back
        assert "draining" not in server.log, "the signal that ends a pool"
        assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), 30)


SIGNALS = """
import signal, torch

class Model(torch.nn.Module):
    def forward(self, x):
        if x.max() == 1:
            for number in (signal.SIGTERM, signal.SIGURG):
                signal.signal(number, signal.SIG_IGN)
        while x.max() == 2:
            pass
        return x
"""


def test_signal_handlers_that_a_model_replaces_are_restored(tmp_path: Path) -> None:
    write_model(tmp_path, "forker", SIGNALS, {"x": ("FP32", [1])}, {"y": ("FP32", [1])}, executor="loop")
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url, timeout=30) as client:
            assert ask(client, 1.0).status_code == 200
            server.announced("replaced the handler of (SIGURG)", 30)
            assert ask(client, 2.0).status_code == 500, "interrupted"
            assert ask(client, 3.0).status_code == 200
        assert server.stop() == 0
