"""gRPC calls that end early or are many, in the process of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2

from backends.pages import Pages
from backends.registry import Registry
from backends.rpc import server as server_module
from backends.rpc.server import GrpcServer
from tests.backends.repositories import ECHO, write_model

GATED = """
import pathlib, time

def wait(gate):
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)

class Model:
    def __init__(self, gate, load=False):
        self.gate = gate
        if load:
            wait(gate)

    def __call__(self, x):
        if x.any():
            wait(self.gate)
        return x
"""
X, Y = {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])}
LIMIT_S = 30


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[tuple[Registry, grpc.aio.Channel]]:
    registry = Registry(root, "cpu")
    await registry.load_all()
    server = GrpcServer(registry, Pages(registry, control=True), lambda: False, 1 << 20)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield registry, channel
    await server.stop(0)
    await registry.close()


async def test_a_load_is_not_undone_by_its_client(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "echo", ECHO, X, Y)
    async with serving(tmp_path / "models") as (registry, channel):
        parameters = {"gate": str(tmp_path / "gate"), "load": True}
        write_model(tmp_path / "models", "slow", GATED, X, Y, parameters=parameters)
        load = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            request_serializer=service_pb2.RepositoryModelLoadRequest.SerializeToString,
        )(service_pb2.RepositoryModelLoadRequest(model_name="slow"))
        async with asyncio.timeout(LIMIT_S):
            while not registry.progress():
                await asyncio.sleep(0.01)
            load.cancel()
            await channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"")
            assert registry.progress(), "it goes on"
            (tmp_path / "gate").touch()
            while not registry.ready("slow"):
                await asyncio.sleep(0.01)


async def test_requests_of_all_calls_together_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_HELD_BYTES", 10_000)
    write_model(tmp_path / "models", "m", GATED, X, Y, parameters={"gate": str(tmp_path / "gate")})
    async with serving(tmp_path / "models") as (registry, channel):
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        )
        request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"1" * 8000])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2000])
        first = infer(request)
        async with asyncio.timeout(LIMIT_S):
            served = registry.find("m")
            while not any(instance.started for instance in served._instances):
                await asyncio.sleep(0.01)
            for _ in range(2):
                with pytest.raises(grpc.aio.AioRpcError, match="too many unfinished requests") as refused:
                    await infer(request)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            (tmp_path / "gate").touch()
            await first
            await infer(request)
