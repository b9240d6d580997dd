"""A server of the Open Inference Protocol over gRPC, with grpcio; what it does, a test sets."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

from backends.rpc.messages import HEALTH_MESSAGES, MESSAGES

SERVICE = "inference.GRPCInferenceService"
SERVING, NOT_SERVING = 1, 2
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
"""Otherwise a channel may begin on the connection of the one before, which the rig has just closed."""


class InferenceServer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Doubles its input; ``failure`` is the status of the next calls, ``serving`` what it says of its health."""

    def __init__(self, *, offset: float = 0.0, binary: bool = True) -> None:
        """``offset``: added to each value. ``binary``: whether the values are raw contents."""
        self.offset, self.binary = offset, binary
        self.failure: grpc.StatusCode | None = None
        self.late_failure: grpc.StatusCode | None = None
        self.delay = 0.0
        """Seconds before it responds."""
        self.serving: int | None = SERVING
        """None: as a server without grpc.health.v1."""
        self.models: list[str] = []
        self.probed: list[str] = []

    def start(self) -> Self:
        self.server = grpc.server(ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        return self

    def service(self, details: Any) -> Any:
        service, method = details.method.rsplit("/", 2)[1:]
        if service == "grpc.health.v1.Health":
            return (
                _unary(self.check, HEALTH_MESSAGES["HealthCheckRequest"])
                if self.serving is not None
                else None
            )
        if method == "ModelInfer":
            return _unary(self.infer, MESSAGES["ModelInferRequest"])
        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(
                self.stream, MESSAGES["ModelInferRequest"].FromString, lambda m: m.SerializeToString()
            )
        return None

    def check(self, request: Any, context: Any) -> Any:
        self.probed.append(request.service)
        return HEALTH_MESSAGES["HealthCheckResponse"](status=self.serving)

    def infer(self, request: Any, context: Any) -> Any:
        self.models.append(request.model_name)
        time.sleep(self.delay)
        if self.failure is not None:
            context.abort(self.failure, "told to")
        return self.response(request)

    def stream(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            self.models.append(request.model_name)
            yield MESSAGES["ModelStreamInferResponse"](infer_response=self.response(request))
        if self.late_failure is not None:
            context.abort(self.late_failure, "told to, late")

    def response(self, request: Any) -> Any:
        (tensor,) = request.inputs
        given = tensor.contents.fp32_contents or _unpacked(b"".join(request.raw_input_contents))
        values = [2.0 * value + self.offset for value in given]
        found = MESSAGES["ModelInferResponse"](model_name=request.model_name, id=request.id)
        output = found.outputs.add(name="y", datatype="FP32", shape=[len(values)])
        if self.binary:
            found.raw_output_contents.append(_packed(values))
        else:
            # The bundled server writes raw contents only, so its message has no field for these: number 5.
            contents = MESSAGES["InferTensorContents"](fp32_contents=values).SerializeToString()
            output.MergeFromString(b"\x2a%c%b" % (len(contents), contents))
        return found


def _unary(function: Any, request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        function, request.FromString, lambda message: message.SerializeToString()
    )


def _packed(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _unpacked(contents: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(contents) // 4}f", contents))


def infer_request(model: str, *values: float) -> Any:
    found = MESSAGES["ModelInferRequest"](model_name=model)
    tensor = found.inputs.add(name="x", datatype="FP32", shape=[len(values)])
    tensor.contents.fp32_contents.extend(values)
    return found


def infer(channel: grpc.Channel, model: str, *values: float) -> tuple[list[float], Any]:
    """The values of "y" in binary form, and the call."""
    method = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES["ModelInferResponse"].FromString,
    )
    response, call = method.with_call(infer_request(model, *values or (1.0,)), timeout=60)
    return _unpacked(b"".join(response.raw_output_contents)), call
