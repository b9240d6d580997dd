"""SIGTERM while a gRPC call is under way: GOAWAY, the call ends whole, exit 0."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from backends.rpc.messages import MESSAGES
from tests.http2.inference import SERVICE, InferenceServer, infer, infer_request
from tests.support.processes import GatewayProcess

PATIENCE = 30.0


@pytest.mark.long
def test_a_call_that_is_under_way_ends_whole(tmp_path: Path) -> None:
    server = InferenceServer().start()
    config = f"""
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
backends:
  one: {{url: "h2c://127.0.0.1:{server.port}"}}
routes:
  models:
    match: {{grpc: {SERVICE}}}
    variants: {{v1: {{backend: one}}}}
    policy: {{type: single, variant: v1}}
"""
    go_on = threading.Event()

    def requests() -> Iterator[Any]:
        yield infer_request("m", 1.0)
        assert go_on.wait(PATIENCE)
        yield infer_request("m", 2.0)

    with GatewayProcess(tmp_path, config) as gateway, grpc.insecure_channel(gateway.address) as channel:
        assert infer(channel, "m", 1.0)[0] == [2.0]
        method = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["ModelStreamInferResponse"].FromString,
        )
        call = method(requests(), timeout=PATIENCE)
        next(call)
        states: list[grpc.ChannelConnectivity] = []
        left = threading.Event()

        def on_state(state: grpc.ChannelConnectivity) -> None:
            states.append(state)
            if grpc.ChannelConnectivity.READY in states and state is not grpc.ChannelConnectivity.READY:
                left.set()

        channel.subscribe(on_state)
        gateway.process.send_signal(signal.SIGTERM)
        assert left.wait(PATIENCE), states  # a GOAWAY: the client opens no further streams there
        go_on.set()
        assert len(list(call)) == 1
        assert call.code() is grpc.StatusCode.OK
        assert gateway.process.wait(PATIENCE) == 0
    server.server.stop(None).wait()
