"""An active health check by gRPC's own protocol, ``grpc.health.v1``."""

from __future__ import annotations

from typing import Final

from gateway.http.grpc import judged_status
from gateway.transport.base import ResponseHead
from gateway.transport.probe import ProbeRequest, ProbeResult

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = b"\x00\x00\x00\x00\x02\x08\x01"
"""A HealthCheckResponse with the status SERVING, as a message of gRPC."""
MAX_RESPONSE_BYTES: Final = 1024


class GrpcProbe(ProbeRequest):
    """A call of ``Check``: healthy if the service is SERVING."""

    __slots__ = ("_judged", "_received")

    def __init__(self, request: list[bytes]) -> None:
        super().__init__(request)
        self._judged = 0
        self._received = b""

    def on_head(self, response: ResponseHead) -> None:
        self._judged = response.judged

    def on_data(self, data: bytes) -> None:
        self._received = (self._received + data)[:MAX_RESPONSE_BYTES]

    def on_end(self, trailers: bytes) -> None:
        status = judged_status(trailers.split(b"\r\n"), self._judged)
        if status == 404:
            detail = "it does not serve grpc.health.v1, or not for this name: correct 'health.grpc', or leave it out"
            self._resolve(ProbeResult(0, "backend_status", detail))
        elif status != 200:
            self._resolve(ProbeResult(0, "backend_status", f"grpc.health.v1 failed as HTTP {status} does"))
        elif self._received != SERVING:
            self._resolve(ProbeResult(0, "backend_status", "grpc.health.v1 says that it is not SERVING"))
        else:
            self._resolve(ProbeResult(200))


def health_check(service: str) -> bytes:
    """A HealthCheckRequest for ``service``, as a message of gRPC."""
    name = service.encode()
    message = b"\x0a%b%b" % (_varint(len(name)), name) if name else b""
    return b"\x00%b%b" % (len(message).to_bytes(4, "big"), message)


def _varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes((value & 127 | 128,))
        value >>= 7
    return out + bytes((value,))
