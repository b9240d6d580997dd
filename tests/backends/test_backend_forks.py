"""Models that fork processes, start threads, and replace signal handlers."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.backends.repositories import ECHO, write_model
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


def processes(server: ModelServerProcess) -> list[str]:
    """The commands of the processes that the server has started and that have not ended."""
    words = ["ps", "-ww", "-o", "stat=,args=", "--ppid", str(server.process.pid)]
    lines = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in lines if not line.startswith("Z")]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_forked_process_does_not_keep_an_unloaded_model_in_its_device_process(tmp_path: Path) -> None:
    spec = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}
    write_model(tmp_path, "remote", ECHO, *spec, executor="process")
    write_model(tmp_path, "forker", FORKER, *spec, executor="thread")
    with ModelServerProcess(tmp_path, "--allow-load") as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url, timeout=30) as client:
            assert ask(client, 1.0).status_code == 200
            assert len(processes(server)) == 2
            assert client.post("/v2/repository/models/remote/unload").status_code == 200
        until(lambda: len(processes(server)) == 1)
        assert server.stop() == 0


FORKING = """
import os, torch

class Model:
    def __init__(self, at):
        self.at = at
        if at == "load":
            os.fork()
        self.parent = os.getpid()

    def state(self, n):
        return torch.zeros(n, 1)

    def __call__(self, tokens, state):
        if self.at == "step" and tokens[0, 0] == 98 and os.getpid() == self.parent:
            os.fork()
        logits = torch.zeros(*tokens.shape, 256)
        logits[..., 98] = 1
        return logits, state
"""


@pytest.mark.parametrize("at", ["load", "step"])
def test_a_process_that_returns_from_a_text_model_ends(tmp_path: Path, at: str) -> None:
    spec = {"text_input": ("BYTES", [1])}, {"text_output": ("BYTES", [1])}
    write_model(tmp_path, "forker", FORKING, *spec, platform="pytorch_text", parameters={"at": at})
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready()
        prompt = {"model": "forker", "prompt": "a", "max_tokens": 3, "temperature": 0}
        texts = httpx.post(f"{server.url}/v1/completions", json=prompt, timeout=30).json()
        assert texts["choices"][0]["text"] == "bbb"
        until(lambda: processes(server) == [])
        assert server.stop() == 0


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
