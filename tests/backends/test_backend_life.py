"""Starting, ending, being too busy, and clients that leave: real processes and real sockets."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from backends import cli
from backends.errors import LoadError
from backends.runtime.device import resolve
from backends.server import Server, Settings
from tests.backends.repositories import HELD, Gate, write_picky, write_sleeper
from tests.support.processes import ModelServerProcess

SLEEP = "/v2/models/sleeper/infer"


@pytest.fixture(scope="module")
def shared_gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate") / "of_the_module")


@pytest.fixture
def gate(shared_gate: Gate) -> Iterator[Gate]:
    """Closed."""
    shared_gate.close()
    yield shared_gate
    shared_gate.open()


@pytest.fixture(scope="module", params=["thread", "process", "API servers"])
def sleeper(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_gate: Gate
) -> Iterator[ModelServerProcess]:
    root = tmp_path_factory.mktemp("sleeper")
    write_sleeper(
        root,
        shared_gate,
        max_batch_size=1,
        executor="process" if request.param == "process" else "thread",
        dynamic_batching={"default_queue_policy": {"max_queue_size": 2}},
    )
    with ModelServerProcess(root, "--api-server-count", str(1 + (request.param == "API servers"))) as server:
        server.wait_ready()
        yield server


def asking(seconds: float, timeout_us: int = 0) -> dict[str, object]:
    tensor = {"name": "seconds", "datatype": "FP32", "shape": [1, 1], "data": [seconds]}
    return {"inputs": [tensor], **({"parameters": {"timeout": timeout_us}} if timeout_us else {})}


async def answered(client: httpx.AsyncClient) -> int:
    (stats,) = (await client.get("/v2/models/sleeper/stats")).json()["model_stats"]
    return int(stats["inference_count"])


async def waiting(client: httpx.AsyncClient, count: int) -> None:
    """Until ``count`` requests wait in the queue."""
    line = f'nv_inference_pending_request_count{{model="sleeper",version="1"}} {count:.1f}'
    async with asyncio.timeout(60):
        while line not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)


async def test_sigterm_says_not_ready_finishes_what_runs_and_exits_0(tmp_path: Path, gate: Gate) -> None:
    write_sleeper(tmp_path, gate)
    write_picky(tmp_path)
    with ModelServerProcess(tmp_path, "--drain-delay", "4") as server:
        server.wait_ready()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            running = asyncio.create_task(client.post(SLEEP, json=asking(HELD)))
            await gate.begun()
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                while (ready := await client.get("/v2/health/ready")).status_code == 200:
                    await asyncio.sleep(0.01)
            assert (ready.status_code, ready.json()["error"]) == (503, "the server is shutting down")
            assert (await client.get("/v2/health/live")).status_code == 200
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
            late = await client.post("/v2/models/picky/infer", json={"inputs": [tensor]})
            assert late.status_code == 200, "until it stops listening it still answers"
            assert late.headers["connection"] == "close"
            gate.open()
            assert (await running).status_code == 200
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/v2/health/live")


@pytest.mark.slow
async def test_a_model_that_hangs_does_not_keep_the_process_from_ending(tmp_path: Path, gate: Gate) -> None:
    write_sleeper(tmp_path, gate)
    with ModelServerProcess(tmp_path, "--drain-delay", "0", "--drain-limit", "1") as server:
        server.wait_ready()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            hung = asyncio.create_task(client.post(SLEEP, json=asking(1000.0)))
            await gate.begun()
            assert await asyncio.to_thread(server.stop) == 1
            with pytest.raises(httpx.TransportError):
                await hung
        assert "still busy" in server.log


async def test_a_full_queue_answers_503_with_retry_after(sleeper: ModelServerProcess, gate: Gate) -> None:
    async with httpx.AsyncClient(base_url=sleeper.url, timeout=60) as client:
        first = asyncio.create_task(client.post(SLEEP, json=asking(HELD)))
        await gate.begun()
        tasks = [asyncio.create_task(client.post(SLEEP, json=asking(0.0))) for _ in range(6)]
        async with asyncio.timeout(60):
            while sum(task.done() for task in tasks) < 4:
                await asyncio.sleep(0.01)
        gate.open()
        answers = await asyncio.gather(*tasks)
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 4
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert "2 requests are waiting" in refused[0].json()["error"]
        assert [answer.status_code for answer in (*answers, await first)].count(200) == 3
        assert 'outcome="rejected",version="1"} 4.0' in (await client.get("/metrics")).text


async def test_a_request_may_say_how_long_it_waits(sleeper: ModelServerProcess, gate: Gate) -> None:
    """F5: it was told when an instance was free, not when its time was up."""
    async with httpx.AsyncClient(base_url=sleeper.url, timeout=60) as client:
        first = asyncio.create_task(client.post(SLEEP, json=asking(HELD)))
        await gate.begun()
        late = await client.post(SLEEP, json=asking(0.0, timeout_us=50_000))
        assert late.status_code == 503
        assert "waited longer than its timeout" in late.json()["error"]
        gate.open()
        assert (await first).status_code == 200


async def test_work_for_a_client_that_left_is_not_done(sleeper: ModelServerProcess, gate: Gate) -> None:
    async with httpx.AsyncClient(base_url=sleeper.url, timeout=60) as client:
        before = await answered(client)
        first = asyncio.create_task(client.post(SLEEP, json=asking(HELD)))
        await gate.begun()
        host, port = sleeper.address.split(":")
        for _ in range(2):
            _, writer = await asyncio.open_connection(host, int(port))
            body = json.dumps(asking(300.0)).encode()
            head = f"POST {SLEEP} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            await waiting(client, 1)
            writer.close()
            await waiting(client, 0)  # F6: it leaves the queue when its connection closes
        gate.open()
        assert (await client.post(SLEEP, json=asking(0.0))).status_code == 200
        assert (await first).status_code == 200
        assert await answered(client) == before + 2


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_clients_that_keep_sending_through_sigterm_see_no_reset(tmp_path: Path, processes: str) -> None:
    """F9: 7 of 8 got a reset: connections that the kernel had accepted and the process had not."""
    write_sleeper(tmp_path)
    body = json.dumps(asking(0.0)).encode()
    request = f"POST {SLEEP} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with ModelServerProcess(tmp_path, "--drain-delay", "0.2", "--api-server-count", processes) as server:
        server.wait_ready()
        host, port = server.address.split(":")
        answers: list[bytes] = []

        async def keep_sending(again: bool) -> str:
            """New connections, or one as long as it lasts, until the server can't be reached."""
            while True:
                try:
                    reader, writer = await asyncio.open_connection(host, int(port))
                except ConnectionRefusedError:
                    return "refused"
                try:
                    while True:
                        writer.write(request)
                        answer = await reader.readuntil(b"\r\n\r\n")
                        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                        await reader.readexactly(length)
                        answers.append(answer)
                        if b"connection: close" in answer or not again:
                            break
                except ConnectionResetError:
                    return "reset"
                except asyncio.IncompleteReadError:
                    return "cut"
                finally:
                    writer.close()

        clients = [asyncio.create_task(keep_sending(number % 8 == 0)) for number in range(64)]
        while len(answers) < 2 * len(clients):
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.gather(*clients) == ["refused"] * 64
        assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}


def test_alive_before_ready(models: Path) -> None:
    with ModelServerProcess(models) as server:
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        ready = httpx.get(f"{server.url}/v2/health/ready")
        early = httpx.get(f"{server.url}/v2/models/digits")
        if ready.status_code == 503:
            assert "still being loaded" in ready.json()["error"]
            assert early.status_code in (200, 503)
        server.wait_ready()
        assert httpx.get(f"{server.url}/v2/models/digits").status_code == 200
        assert server.stop() == 0


def fails(*options: str) -> str:
    command = [sys.executable, "-m", "backends.cli", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_no_repository(tmp_path: Path) -> None:
    assert "is not a directory" in fails("--models", str(tmp_path / "absent"))
    assert "holds no model" in fails("--models", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--models", "mlflow:here", "--model", "m@a"), "write mlflow:http://HOST:PORT"),
        (("--models", "mlflow:http://127.0.0.1:1"), "write --model NAME@ALIAS"),
        (("--models", "mlflow:http://127.0.0.1:1", "--model", "m"), "'m' is not a model of MLflow"),
        (("--models", ".", "--model", "m@a"), "--model is for --models mlflow:URL"),
        (("--models", "mlflow:http://127.0.0.1:1", "--model", "m@a", "--train"), "leave it out"),
    ],
)
def test_what_is_wrong_with_mlflow_options_is_said(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert cli.main(parser.parse_args(words)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--port", "65536", "write a number from 0 to 65535"),
        ("--grpc-port", "-1", "write a number from 0 to 65535"),
        ("--api-server-count", "65", "write a number from 1 to 64"),
        ("--threads", "-3", "write a number 0 or more"),
        ("--max-pending-bytes", "0", "write a number 1 or more"),
        ("--drain-delay", "nan", "write a number from 0 to 86400"),
        ("--drain-limit", "inf", "write a number from 0 to 86400"),
        ("--poll", "0", "write a number from 0.1 to 86400"),
        ("--request-log-sample", "5", "write a number from 0 to 1"),
        ("--request-log-values", "1.5", "invalid int value"),
    ],
)
def test_numbers_out_of_range_are_refused(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(("--models", ".", option, value))
    assert f"argument {option}: " in (error := capsys.readouterr().err)
    assert message in error


def test_a_port_that_is_taken(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in fails("--models", str(models), "--port", str(taken.getsockname()[1]))


def test_a_device_that_is_not_there(models: Path) -> None:
    assert "is not there" in fails("--models", str(models), "--port", "0", "--device", "cuda:99")
    for device, message in (("quantum", "is unknown"), ("meta", "is not served")):
        with pytest.raises(LoadError, match=message):
            resolve(device)
    assert resolve("cpu").type == "cpu"
    assert resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


async def test_a_library_that_cannot_be_imported_ends_the_server(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def check_device(server: Server) -> None:
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(Server, "_check_device", check_device)
    assert await asyncio.wait_for(Server(Settings(models, port=0)).run(), 60) == 1
    assert "libcudart.so: cannot open" in caplog.text
