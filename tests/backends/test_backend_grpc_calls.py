"""gRPC calls that end early or are many, in the process of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2

from backends.pages import Pages
from backends.registry import Registry
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
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await watched.read()
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await stream.write(b"\x0a\x06absent")
        assert b"no model 'absent'" in await stream.read()
        yield registry, channel
        # Callers that only wait are not waited for: the grace is for requests in flight.
        await asyncio.wait_for(server.stop(10 * LIMIT_S), LIMIT_S)
        assert await watched.code() is grpc.StatusCode.OK
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await stream.details() == "the server is shutting down"
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
