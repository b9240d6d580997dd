"""The bytes that pending requests hold are bounded, whichever way the requests come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from backends.batching.entry import Entry
from backends.batching.pending import PendingBytes
from backends.errors import Unavailable
from tests.backends.repositories import write_model
from tests.support.processes import ModelServerProcess

GATED = """
import pathlib, time

class Model:
    def __init__(self, gate):
        self.gate = pathlib.Path(gate)

    def __call__(self, x):
        while x.any() and not self.gate.exists():
            time.sleep(0.01)
        return x.sum(dim=1, keepdim=True)
"""
LIMIT = 100_000
BIG = np.ones((1, 10_000), np.float32)
"""40,000 bytes."""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("gate") / "open"
    return path


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "API servers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gate: Path
) -> Iterator[ModelServerProcess]:
    root = tmp_path_factory.mktemp("pending")
    x, y = {"x": ("FP32", [-1])}, {"y": ("FP32", [1])}
    write_model(root, "gated", GATED, x, y, max_batch_size=1, parameters={"gate": str(gate)})
    options = ("--max-pending-bytes", str(LIMIT), "--api-server-count", request.param, "--grpc-port", "0")
    with ModelServerProcess(root, *options) as server:
        server.wait_ready()
        yield server
        gate.touch()
        assert server.stop() == 0, server.log


def binary(tensor: np.ndarray) -> tuple[bytes, dict[str, str]]:
    size = {"binary_data_size": tensor.nbytes}
    entry = {"name": "x", "datatype": "FP32", "shape": tensor.shape, "parameters": size}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + tensor.tobytes(), {"inference-header-content-length": str(len(head))}


async def test_a_flood_of_large_requests_is_refused_before_memory_ends(
    server: ModelServerProcess, gate: Path
) -> None:
    body, headers = binary(BIG)
    url = f"{server.url}/v2/models/gated/infer"
    gate.unlink(missing_ok=True)
    async with httpx.AsyncClient(timeout=60) as client:
        flood = [asyncio.create_task(client.post(url, content=body, headers=headers)) for _ in range(8)]
        await asyncio.wait(flood, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        target = server.announced(r"gRPC on (\S+)")
        async with grpc.aio.insecure_channel(target) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            )
            request = service_pb2.ModelInferRequest(model_name="gated", raw_input_contents=[BIG.tobytes()])
            request.inputs.add(name="x", datatype="FP32", shape=BIG.shape)
            while sum(task.done() for task in flood) < 6:  # two run or wait
                await asyncio.sleep(0.01)
            with pytest.raises(grpc.aio.AioRpcError, match="may hold 100000") as refused:
                await infer(request)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            small, small_headers = binary(BIG[:, :10])
            waiting = asyncio.create_task(client.post(url, content=small, headers=small_headers))
            await asyncio.sleep(0.1)
            assert not waiting.done(), "a small one still fits"
            gate.touch()
            responses = [*await asyncio.gather(*flood), await waiting]
            assert sorted(response.status_code for response in responses) == [200] * 3 + [503] * 6
            for response in responses:
                if response.status_code == 503:
                    assert "may hold 100000" in response.json()["error"]
                    assert int(response.headers["retry-after"]) >= 1
            await infer(request)
        rejected = 'nv_inference_request_failure{model="gated",reason="REJECTED",version="1"} '
        (line,) = (
            line
            for line in (await client.get(f"{server.url}/metrics")).text.splitlines()
            if line.startswith(rejected)
        )
        assert 1 <= float(line.removeprefix(rejected)) <= 7


async def test_what_has_ended_is_counted_no_more(server: ModelServerProcess, gate: Path) -> None:
    """Answered, refused by the model's signature, and left by its client."""
    body, headers = binary(np.ones((1, 20_000), np.float32))
    url = f"{server.url}/v2/models/gated/infer"
    async with httpx.AsyncClient(timeout=60) as client:
        gate.touch()
        for _ in range(5):
            assert (await client.post(url, content=body, headers=headers)).status_code == 200
            assert (await client.post(url, content=body[:-1], headers=headers)).status_code == 400
        gate.unlink()
        small, small_headers = binary(BIG[:, :10])
        held = [asyncio.create_task(client.post(url, content=small, headers=small_headers)) for _ in range(2)]
        end = time.monotonic() + 60
        while (
            'nv_inference_pending_request_count{model="gated",version="1"} 1.0'
            not in (await client.get(f"{server.url}/metrics")).text
        ):
            assert time.monotonic() < end, "one runs, one waits"
        left = 0
        while left < 5:
            assert time.monotonic() < end, "the bytes of a client that left are never free again"
            try:  # 503 as long as the server has not heard that the client before has left
                refused = await client.post(url, content=body, headers=headers, timeout=0.5)
                assert refused.status_code == 503
            except httpx.TimeoutException:
                left += 1
        gate.touch()
        assert [one.status_code for one in await asyncio.gather(*held)] == [200, 200]
        while (response := await client.post(url, content=body, headers=headers)).status_code == 503:
            assert time.monotonic() < end, "the bytes of a client that left are never free again"
        assert response.status_code == 200


def test_texts_count_with_their_objects() -> None:
    texts = np.array([[b"ab"] * 1000], dtype=object)
    entry = Entry((texts,), 1, ((1000,),), 0)
    pending = PendingBytes(50_000)
    entry.hold(pending)
    assert 40_000 < pending.used < 50_000
    other = Entry((texts,), 1, ((1000,),), 0)
    with pytest.raises(Unavailable, match="may hold 50000"):
        other.hold(pending)
    other.end()
    entry.end()
    entry.end()
    assert pending.used == 0
