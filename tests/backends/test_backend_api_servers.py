"""Several API servers in front of one set of models: they serve as one, and the end of one ends nothing else."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.api_servers.messages import MessageSocket
from backends.api_servers.processes import ApiServers
from backends.api_servers.shared import MIN_SHARED_BYTES, SharedMemory
from backends.app import MAX_BODY, App
from backends.batching.pending import MAX_PENDING_BYTES
from backends.datatypes import named
from backends.registry import Registry
from tests.backends.repositories import ECHO, SCALED, write_model, write_sleeper
from tests.e2e.common import wait_for
from tests.support.processes import ModelServerProcess, ended

ROWS = """
import torch

class Model:
    def __call__(self, x):
        return torch.full_like(x, len(x))
"""
"""Gives the rows of its batch."""
X, Y = {"x": ("FP32", [3])}, {"y": ("FP32", [3])}
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
).encode()
MIXED = "class Model:\n    def __call__(self, text, bits, none): return text, bits, none"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("api-servers")
    write_model(root, "scaled", SCALED, X, Y, parameters={"factor": 2.0})
    write_model(
        root,
        "rows",
        ROWS,
        X,
        Y,
        max_batch_size=2,
        dynamic_batching={"max_queue_delay_microseconds": 30_000_000},
    )
    write_model(root, "counted", ECHO, X, Y)
    write_model(root, "steady", ECHO, X, Y)
    tensors = {"text": ("BYTES", [-1]), "bits": ("BF16", [2]), "none": ("INT64", [-1])}
    write_model(root, "mixed", MIXED, tensors, {f"{name}_out": given for name, given in tensors.items()})
    write_model(root, "large", ECHO, {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])}, max_batch_size=64)
    write_sleeper(root, max_batch_size=1)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ModelServerProcess]:
    with ModelServerProcess(root, "--allow-load", "--api-server-count", "2") as server:
        server.wait_ready()
        yield server
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log


def api_servers(parent: int) -> list[int]:
    """Their process ids."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                started_by = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(started_by) == parent and b"backends.api_servers.child" in command:
                found.append(int(folder.name))
    return found


class Client:
    """One connection."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.file = self.socket.makefile("rb")

    def send(self, model: str, body: bytes = BODY) -> None:
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def receive(self) -> tuple[int, Any]:
        status = int(self.file.readline().split()[1])
        length = 0
        while line := self.file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, json.loads(self.file.read(length))

    def ask(self, model: str, body: bytes = BODY) -> tuple[int, Any]:
        self.send(model, body)
        return self.receive()

    def served_by(self) -> int:
        """The process that has the connection: it is the one whose file it is."""
        ends = [_hexadecimal(*self.socket.getpeername()), _hexadecimal(*self.socket.getsockname())]
        (inode,) = (
            fields[9]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if (fields := line.split())[1:3] == ends
        )
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    files = [os.readlink(file) for file in (folder / "fd").iterdir()]
                except OSError:
                    continue
                if f"socket:[{inode}]" in files:
                    return int(folder.name)
        raise AssertionError(f"no process has the connection {ends}")


def _hexadecimal(host: str, port: int) -> str:
    """An end of a connection as the kernel lists it."""
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


@pytest.fixture
def connect(server: ModelServerProcess) -> Iterator[Callable[[], Client]]:
    with connecting(server.address) as connect:
        yield connect


@contextmanager
def connecting(address: str) -> Iterator[Callable[[], Client]]:
    """Makes connections, and closes them."""
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(address))
        return clients[-1]

    yield connect
    for client in clients:
        client.file.close()
        client.socket.close()


def one_of_each(parent: int, connect: Callable[[], Client]) -> list[Client]:
    """Connections to different API servers."""
    found: dict[int, Client] = {}
    while len(found) < 2:
        client = connect()
        client.ask("counted")
        found.setdefault(client.served_by(), client)
    assert sorted(found) == sorted(api_servers(parent))
    return list(found.values())


def test_a_batch_has_requests_of_different_api_servers(
    server: ModelServerProcess, connect: Callable[[], Client]
) -> None:
    clients = one_of_each(server.process.pid, connect)
    for client in clients:
        client.send("rows")
    for client in clients:
        status, answer = client.receive()
        assert (status, answer["outputs"][0]["data"]) == (200, [2.0] * 3)


def test_all_datatypes_cross(connect: Callable[[], Client]) -> None:
    text = ["a", "ü" * 100_000, ""]
    inputs = [
        {"name": "text", "shape": [1, 3], "datatype": "BYTES", "data": text},
        {"name": "bits", "shape": [1, 2], "datatype": "BF16", "data": [1.5, -2.0]},
        {"name": "none", "shape": [1, 0], "datatype": "INT64", "data": []},
    ]
    status, answer = connect().ask("mixed", json.dumps({"inputs": inputs}).encode())
    assert status == 200, answer
    assert [(one["shape"], one["data"]) for one in answer["outputs"]] == [
        ([1, 3], text),
        ([1, 2], [1.5, -2.0]),
        ([1, 0], []),
    ]


def test_a_load_takes_effect_on_all_at_once_and_fails_no_request(
    server: ModelServerProcess, root: Path, connect: Callable[[], Client]
) -> None:
    """Also one that changes the shape: what was right becomes wrong, and the other way round."""
    clients = one_of_each(server.process.pid, connect)
    config_path = root / "scaled" / "config.json"
    for factor, width in ((3.0, 3), (4.0, 2), (5.0, 3)):
        config = json.loads(config_path.read_text())
        config["parameters"] = {"factor": factor}
        config["input"][0]["dims"] = config["output"][0]["dims"] = [width]
        code = SCALED.replace("torch.ones(3)", f"torch.ones({width})")
        (root / "scaled" / "1" / "model.py").write_text(code)
        config_path.write_text(json.dumps(config))
        old = [client.ask("scaled") for client in clients]
        assert httpx.post(f"{server.url}/v2/repository/models/scaled/load", timeout=60).status_code == 200
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, width], "data": [1.0] * width}
        for client in clients:
            status, answer = client.ask("scaled", json.dumps({"inputs": [tensor]}).encode())
            assert (status, answer["outputs"][0]["data"]) == (200, [factor] * width), (answer, old)
            wrong = {**tensor, "shape": [1, 5], "data": [1.0] * 5}
            status, answer = client.ask("scaled", json.dumps({"inputs": [wrong]}).encode())
            assert (status, f"[-1, {width}]" in answer["error"]) == (400, True), answer


async def test_reloads_under_load_fail_no_request(server: ModelServerProcess, root: Path) -> None:
    answers: list[int] = []
    stop = asyncio.Event()

    async def keep_asking() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                answers.append((await client.post("/v2/models/counted/infer", content=BODY)).status_code)

    clients = [asyncio.create_task(keep_asking()) for _ in range(8)]
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for _ in range(5):
            os.utime(root / "counted" / "1" / "model.py")
            assert (await client.post("/v2/repository/models/counted/load")).status_code == 200
    stop.set()
    await asyncio.gather(*clients)
    assert Counter(answers) == {200: len(answers)}
    assert len(answers) > 20


def test_statistics_are_those_of_all(server: ModelServerProcess, connect: Callable[[], Client]) -> None:
    def counts() -> Counter[str]:
        text = httpx.get(f"{server.url}/metrics").text
        return Counter(
            {
                sample.labels["outcome"]: int(sample.value)
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "turnout_backend_requests_total" and sample.labels["model"] == "counted"
            }
        )

    before, clients = counts(), one_of_each(server.process.pid, connect)
    asked = counts() - before
    for _ in range(20):
        for client in clients:
            assert client.ask("counted")[0] == 200
            assert client.ask("counted", b'{"inputs": 1}')[0] == 400
            assert client.ask("counted", BODY.replace(b"FP32", b"FP64"))[0] == 400
    assert counts() - before == asked + Counter(answered=40, invalid=80)


def large_request(values: np.ndarray) -> bytes:
    """A whole request to the model `large`, in binary form both ways."""
    size = {"binary_data_size": values.nbytes}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, values.size], "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    fields = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + values.nbytes}"
    return (
        f"POST /v2/models/large/infer HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode()
        + head
        + values.tobytes()
    )


async def test_large_tensors_come_back_as_they_were_sent(server: ModelServerProcess) -> None:
    """Also those of clients next to others that leave, whose memory is used again."""
    host, port = server.address.split(":")
    chance = np.random.default_rng(1)

    async def client(number: int) -> int:
        right = 0
        for turn in range(12):
            values = chance.random(30_000 + 20_000 * (number + turn), dtype=np.float32)
            reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
            writer.write(large_request(values))
            if (number + turn) % 3:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                sizes = [
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.startswith((b"inference-header-content-length", b"content-length"))
                ]
                body = await reader.readexactly(max(sizes))
                right += body[min(sizes) :] == values.tobytes()
            else:
                await writer.drain()
            writer.close()
        return right

    assert await asyncio.gather(*map(client, range(6))) == [8] * 6


def test_shared_memory_holds_what_is_read_and_nothing_else() -> None:
    memory, back = (memoryview(bytearray(4 * MIN_SHARED_BYTES)) for _ in range(2))
    ours, theirs = SharedMemory(memory, back), SharedMemory(back, memory)
    fp32 = named("FP32")
    chance = np.random.default_rng(2)
    views: list[tuple[np.ndarray, np.ndarray]] = []
    shared = 0
    for _ in range(300):
        sent = chance.random(MIN_SHARED_BYTES // 4 + int(chance.integers(5000)), dtype=np.float32)
        values = ours.values_of(sent, fp32)
        shared += type(values) is tuple
        theirs.incoming.arrive(ours.outgoing.added())
        views.append((sent, theirs.array_of(values, fp32, sent.shape)))
        theirs.incoming.forget()
        while len(views) > 3 or (views and chance.random() < 0.4):
            for expected, view in views:
                assert np.array_equal(expected, view)
            del views[int(chance.integers(len(views)))]
        expected = view = sent  # not a view
        for start in theirs.incoming.released():
            ours.outgoing.release(start)
    assert 100 < shared < 300, "what finds no place is in the message"
    views.clear()
    for start in theirs.incoming.released():
        ours.outgoing.release(start)
    assert theirs.incoming.released() == []
    whole = np.ones(MIN_SHARED_BYTES, np.float32)
    assert ours.values_of(whole, fp32) == (0, whole.nbytes), "all of it is free, in one piece"
    assert ours.values_of(whole, fp32) is whole


async def test_shared_memory_of_messages_that_are_dropped_is_free() -> None:
    """A request to an unknown model, the outputs of a client that has left."""
    halves = [memoryview(bytearray(4 * MIN_SHARED_BYTES)) for _ in range(2)]
    memory = SharedMemory(*halves)
    ours = MessageSocket(lambda _: None, memory)
    theirs = MessageSocket(lambda _: theirs.send("dropped"), SharedMemory(*reversed(halves)))
    for end, file in zip((ours, theirs), socket.socketpair(), strict=True):
        file.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda end=end: end, sock=file)  # type: ignore[misc]
    whole = np.ones(MIN_SHARED_BYTES, np.float32)
    async with asyncio.timeout(60):
        for _ in range(3):
            while type(values := memory.values_of(whole, named("FP32"))) is not tuple:
                ours.send("another one, for what has become free meanwhile")
                await asyncio.sleep(0.01)
            assert values == (0, whole.nbytes), "as much as fits"
            ours.send(values)
    ours.close()
    theirs.close()


async def test_a_killed_api_server_fails_only_what_it_held(
    server: ModelServerProcess, connect: Callable[[], Client]
) -> None:
    """It is started again; clients connect again; what is counted is what was answered."""
    first, second = await asyncio.to_thread(one_of_each, server.process.pid, connect)
    victim = first.served_by()
    seconds = {"name": "seconds", "datatype": "FP32", "shape": [1, 1], "data": [0.5]}
    slow = json.dumps({"inputs": [seconds]}).encode()
    first.send("sleeper", slow)
    second.send("sleeper", slow)
    stop = asyncio.Event()
    answers: Counter[str] = Counter()

    async def keep_asking() -> None:
        while not stop.is_set():
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                try:
                    while not stop.is_set():
                        answer = await client.post("/v2/models/steady/infer", content=BODY)
                        answers[str(answer.status_code)] += 1
                except httpx.TransportError:
                    answers["lost"] += 1

    clients = [asyncio.create_task(keep_asking()) for _ in range(8)]
    await asyncio.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    status, _ = await asyncio.to_thread(second.receive)
    assert status == 200, "the other API server's request goes on"
    with pytest.raises((OSError, IndexError)):
        first.receive()
    await asyncio.to_thread(server.announced, "(an API server ended with code -9; it is started again)")
    again = await asyncio.to_thread(one_of_each, server.process.pid, connect)
    maps = Path(f"/proc/{server.process.pid}/maps")
    # The memory shared with the killed one is free once no batch of its requests runs.
    await asyncio.to_thread(wait_for, lambda: maps.read_text().count("memfd:turnout") == 2, 60)
    assert victim not in {client.served_by() for client in again}
    stop.set()
    await asyncio.gather(*clients)
    assert answers["lost"] <= 8, "each connection at most once"
    assert set(answers) <= {"200", "lost"}
    (stats,) = httpx.get(f"{server.url}/v2/models/steady/stats").json()["model_stats"]
    counted = stats["inference_stats"]["success"]["count"]
    assert answers["200"] <= counted <= answers["200"] + answers["lost"]


async def test_api_servers_that_hang_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(tmp_path)
    await registry.load_all({})
    servers = ApiServers(App(registry), 2, MAX_BODY, MAX_PENDING_BYTES, hang_limit=10.0)
    address = await servers.start("127.0.0.1", 0)
    try:
        with connecting(address) as connect:
            clients = await asyncio.to_thread(one_of_each, os.getpid(), connect)
            hanging = api_servers(os.getpid())
            for process in hanging:
                os.kill(process, signal.SIGSTOP)
            servers.hang_limit = 1.0  # not before: a busy machine may take as long to respond
            waiting = connect()
            for client in (*clients, waiting):
                client.send("none")
            for client in clients:
                with pytest.raises((OSError, IndexError)):
                    await asyncio.to_thread(client.receive)
            servers.hang_limit = 10.0
            status, _ = await asyncio.to_thread(waiting.receive)
        assert status == 404, "not accepted yet, so the next process serves it"
        assert not {*hanging} & {*api_servers(os.getpid())}
        assert caplog.text.count("an API server has not responded for 1 s") >= 2
    finally:
        await servers.stop(1.0)


@pytest.mark.parametrize(
    "fault", [BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), MemoryError()]
)
async def test_one_that_cannot_be_started_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    registry = Registry(tmp_path)
    await registry.load_all({})
    servers = ApiServers(App(registry), 1, MAX_BODY, MAX_PENDING_BYTES)
    start = subprocess.Popen

    def refused(*_: object, **__: object) -> None:
        monkeypatch.setattr(subprocess, "Popen", start)
        raise fault

    monkeypatch.setattr(subprocess, "Popen", refused)
    address = await servers.start("127.0.0.1", 0)
    try:
        async with httpx.AsyncClient(timeout=60) as client:
            assert (await client.get(f"http://{address}/v2/models/none")).status_code == 404
        assert "an API server could not be started" in caplog.text
    finally:
        await servers.stop(1.0)


def test_a_port_with_api_servers_is_taken(server: ModelServerProcess, root: Path) -> None:
    words = ["--models", str(root), "--port", server.address.split(":")[1], "--api-server-count", "2"]
    command = [sys.executable, "-m", "backends.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "already in use" in done.stderr) == (1, True), done.stderr


def test_api_servers_end_with_a_killed_server(root: Path) -> None:
    with ModelServerProcess(root, "--api-server-count", "2") as server:
        server.wait_ready()
        with connecting(server.address) as connect:
            one_of_each(server.process.pid, connect)  # both serve
        processes = api_servers(server.process.pid)
        os.kill(processes[0], signal.SIGTERM)  # as to a whole process group: the server says when to end
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        assert api_servers(server.process.pid) == processes
        server.kill()
        wait_for(lambda: all(ended(one) for one in processes), 30)
        wait_for(lambda: refuses(server.address), 30)


def refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=30).close()
    except ConnectionError as error:
        return isinstance(error, ConnectionRefusedError)
    return False


def test_values_are_the_same_as_from_one_process(connect: Callable[[], Client]) -> None:
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    inputs = [{"name": "x", "datatype": "FP32", "shape": [8, 3], "data": values.ravel().tolist()}]
    status, answer = connect().ask("counted", json.dumps({"inputs": inputs}).encode())
    assert (status, answer["outputs"][0]["data"]) == (200, values.ravel().tolist())
