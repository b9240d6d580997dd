"""The gRPC server: each call is the HTTP call of the same meaning, in other words."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import numpy as np
import orjson
from google.protobuf.json_format import ParseDict

from backends.batching.entry import FutureEntry
from backends.config import ModelConfig
from backends.datatypes import DATATYPES
from backends.errors import InvalidInput, ServerError, TooLarge
from backends.forks import FORKS
from backends.http.message import Response
from backends.pages import NO_SETTINGS, NO_SHARED_MEMORY, Pages
from backends.registry import Registry
from backends.rpc.health import Health
from backends.rpc.messages import MESSAGES, SERVICE
from backends.rpc.sizes import parser
from backends.wire.tensors import to_bytes

CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""By the HTTP status of an error; else INTERNAL."""
CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_NAMES: Final = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
    "BF16",
)
DATA_TYPES: Final = {name: number for number, name in enumerate(_NAMES, start=1)}
"""Numbers of Triton's enum ``DataType``, by the protocol's name."""
KINDS: Final = {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2}
"""Numbers of Triton's enum ``ModelInstanceGroup.Kind``."""

UNSERVED: Final = {
    **{
        f"{kind}SharedMemory{action}": NO_SHARED_MEMORY
        for kind in ("System", "Cuda")
        for action in ("Status", "Register", "Unregister")
    },
    "TraceSetting": NO_SETTINGS,
    "LogSettings": NO_SETTINGS,
}
"""Methods of Triton's that are refused, with the reason."""


class GrpcServer:
    """Listens on a port of its own, over the same models."""

    def __init__(self, registry: Registry, pages: Pages, draining: Callable[[], bool], max_body: int) -> None:
        self._registry = registry
        self._pages = pages
        self._draining = draining
        options = [("grpc.max_receive_message_length", max_body), ("grpc.max_send_message_length", -1)]
        self._server = grpc.aio.server(options=options)
        self._ending = asyncio.Event()
        """Whether calls end that only wait: the server would wait for them as for requests in flight."""
        health = Health(lambda: not pages.unready(draining()), registry.ready, self._ending)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, self._methods()), health.handler())
        )

    async def start(self, host: str, port: int) -> int:
        """Listens; the port. Raises OSError."""
        try:
            bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"gRPC can't listen on {host}:{port}: {error}") from None
        await self._server.start()
        FORKS.serve(int(bound))
        return int(bound)

    async def stop(self, grace: float) -> None:
        """Refuses new calls, and lets those in flight finish within ``grace`` seconds."""
        self._ending.set()
        await self._server.stop(grace)

    def _methods(self) -> dict[str, grpc.RpcMethodHandler]:
        calls: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: self._pages.live(),
            "ServerReady": lambda _: self._pages.ready(self._draining()),
            "ServerMetadata": lambda _: self._pages.server(),
            "ModelReady": lambda asked: self._pages.model_ready(asked.name, asked.version),
            "ModelMetadata": lambda asked: self._pages.metadata(asked.name, asked.version),
            "ModelConfig": self._config,
            "ModelStatistics": lambda asked: self._pages.stats(asked.name, asked.version),
            "RepositoryIndex": lambda asked: self._pages.index(orjson.dumps({"ready": asked.ready})),
            "RepositoryModelLoad": lambda asked: self._change(asked, "load"),
            "RepositoryModelUnload": lambda asked: self._change(asked, "unload"),
            "ModelInfer": self._infer,
        }
        methods = {name: _unary(name, call) for name, call in calls.items()}
        methods |= {name: _refusal(message) for name, message in UNSERVED.items()}
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=parser("ModelInferRequest"),
            response_serializer=MESSAGES["ModelStreamInferResponse"].SerializeToString,
        )
        return methods

    def _config(self, asked: Any) -> Any:
        return config_message(self._registry.find(asked.name, asked.version).config)

    async def _change(self, asked: Any, action: str) -> Response:
        body = orjson.dumps({"parameters": {"given": True}} if getattr(asked, "parameters", None) else {})
        return await self._pages.change(asked.model_name, action, body)

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One response for each request, in order; an error is a response, too."""
        response = MESSAGES["ModelStreamInferResponse"]
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            while (request := await _next(requests, ending)) is not None:
                try:
                    yield response(infer_response=await self._infer(_usable(request)))
                except ServerError as error:
                    yield response(error_message=error.message)
        finally:
            ending.cancel()
        if self._ending.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

    async def _infer(self, request: Any) -> Any:
        served = self._registry.find(request.model_name, request.model_version)
        try:
            head, raw = as_http(request)
            parsed = served.plans.parse(head + raw, b"%d" % len(head))
        except (InvalidInput, TooLarge):
            served.stats.invalid += 1
            raise
        plan = parsed.plan
        entry = FutureEntry(parsed.inputs, plan.rows, plan.key, time.perf_counter_ns())
        served.submit(entry, plan.timeout)
        try:
            arrays = await entry.future
        finally:
            served.abandon(entry)
        response = MESSAGES["ModelInferResponse"](
            model_name=served.name, model_version=served.version, id=request.id
        )
        for spec, _ in plan.outputs:
            array = arrays[spec.index]
            response.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=array.shape)
            response.raw_output_contents.append(to_bytes(spec.datatype, array))
        return response


async def _next(requests: AsyncIterator[Any], ending: asyncio.Future[Any]) -> Any:
    """The next request of a stream; None behind the last one, or once ``ending`` is done."""
    following = asyncio.ensure_future(anext(requests, None))
    try:
        await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
        return following.result() if following.done() else None
    finally:
        following.cancel()


def config_message(config: ModelConfig) -> Any:
    """The configuration as Triton's ``ModelConfigResponse``."""
    response = MESSAGES["ModelConfigResponse"]()
    message = response.config
    message.name, message.platform, message.max_batch_size = (
        config.name,
        config.platform,
        config.max_batch_size,
    )
    for tensors, described in ((config.input, message.input), (config.output, message.output)):
        for tensor in tensors:
            described.add(name=tensor.name, data_type=DATA_TYPES[tensor.datatype.name], dims=tensor.dims)
    for group in config.instance_group:
        message.instance_group.add(count=group.count, gpus=group.gpus, kind=KINDS[group.kind])
    steps = config.ensemble_scheduling
    if steps is None:
        message.dynamic_batching.max_queue_delay_microseconds = (
            config.dynamic_batching.max_queue_delay_microseconds
        )
        return response
    for step in steps.step:
        added = message.ensemble_scheduling.step.add(
            model_name=step.model_name, model_version=step.model_version
        )
        for names, described in ((step.input_map, added.input_map), (step.output_map, added.output_map)):
            for key, value in names.items():
                described.add(key=key, value=value)
    return response


def as_http(request: Any) -> tuple[bytes, bytes]:
    """The JSON part and the binary data of the HTTP request that means the same. Raises InvalidInput."""
    raw = list(request.raw_input_contents) or [_raw(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        raise InvalidInput(
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; send one for each"
        )
    if request.raw_input_contents and any(tensor.HasField("contents") for tensor in request.inputs):
        raise InvalidInput("contents and raw_input_contents are both there; send one of them")
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {**_parameters(tensor), "binary_data_size": len(data)},
        }
        for tensor, data in zip(request.inputs, raw, strict=True)
    ]
    document: dict[str, Any] = {
        "inputs": inputs,
        "parameters": {**_parameters(request), "binary_data_output": True},
    }
    if request.outputs:
        document["outputs"] = [{"name": one.name, "parameters": _parameters(one)} for one in request.outputs]
    if request.id:
        document["id"] = request.id
    return orjson.dumps(document), b"".join(raw)


def _parameters(message: Any) -> dict[str, Any]:
    return {
        entry.key: getattr(entry.value, choice)
        for entry in message.parameters
        if (choice := entry.value.WhichOneof("choice")) is not None
    }


def _raw(tensor: Any) -> bytes:
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidInput(
            f"input {tensor.name!r} is {tensor.datatype}, which contents can't hold; send raw_input_contents"
        )
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    try:
        return np.array(list(values), dtype=DATATYPES[tensor.datatype].dtype).tobytes()
    except OverflowError:
        raise InvalidInput(
            f"input {tensor.name!r} has a value outside the range of {tensor.datatype}; send one inside it"
        ) from None


def _unary(name: str, call: Callable[[Any], Any]) -> grpc.RpcMethodHandler:
    response_class = MESSAGES[f"{name}Response"]

    async def handle(request: Any, context: Any) -> Any:
        try:
            result = call(_usable(request))
            if isinstance(result, Awaitable):
                result = await result
        except ServerError as error:
            if name == "ModelReady":
                return response_class(ready=False)
            await context.abort(CODES.get(error.status, grpc.StatusCode.INTERNAL), error.message)
        return _message(result, response_class) if isinstance(result, Response) else result

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=parser(f"{name}Request"),
        response_serializer=response_class.SerializeToString,
    )


def _refusal(message: str) -> grpc.RpcMethodHandler:
    async def handle(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    return grpc.unary_unary_rpc_method_handler(handle)


def _usable(request: Any) -> Any:
    """Raises TooLarge where `parser` has put it in place of the request."""
    if isinstance(request, TooLarge):
        raise request
    return request


def _message(response: Response, response_class: Any) -> Any:
    document = orjson.loads(response.body)
    if type(document) is list:
        document = {"models": document}
    return ParseDict(document, response_class(), ignore_unknown_fields=True)
