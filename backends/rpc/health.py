"""gRPC's health protocol (`grpc.health.v1`): what Kubernetes' gRPC probes, Envoy and KServe ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

from backends.rpc.messages import HEALTH_MESSAGES, HEALTH_SERVICE, SERVICE

SERVING: Final = 1
NOT_SERVING: Final = 2
SERVICE_UNKNOWN: Final = 3
WATCH_INTERVAL_S: Final = 0.2
"""Seconds between two looks at the readiness for a caller of Watch."""

_Request = HEALTH_MESSAGES["HealthCheckRequest"]
_Response = HEALTH_MESSAGES["HealthCheckResponse"]


class Health:
    """The status of a service: "" and the inference service follow the server's readiness, a model's name its own."""

    def __init__(
        self, ready: Callable[[], bool], model_ready: Callable[[str], bool | None], ending: asyncio.Event
    ) -> None:
        """``model_ready`` returns None for an unknown model; ``ending`` ends calls of Watch."""
        self._ready = ready
        self._model_ready = model_ready
        self._ending = ending

    def handler(self) -> grpc.GenericRpcHandler:
        codec = {
            "request_deserializer": _Request.FromString,
            "response_serializer": _Response.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, **codec),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **codec),
            },
        )

    def _status(self, service: str) -> int:
        ready = self._ready() if service in ("", SERVICE) else self._model_ready(service)
        if ready is None:
            return SERVICE_UNKNOWN
        return SERVING if ready else NOT_SERVING

    async def _check(self, request: Any, context: Any) -> Any:
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"no service or model {request.service!r}; ask for '', {SERVICE!r} or a model's name",
            )
        return _Response(status=status)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The status now, then each change. An unknown service is a status here, as the protocol says."""
        sent = None
        while not self._ending.is_set():
            status = self._status(request.service)
            if status != sent:
                sent = status
                yield _Response(status=status)
            await asyncio.sleep(WATCH_INTERVAL_S)
