"""The steps of an ensemble: through a model of this server, or of another one over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import numpy as np
import orjson

from backends.batching.entry import FutureEntry, Part
from backends.config import EnsembleStep
from backends.datatypes import named
from backends.errors import InvalidInput, LoadError, ModelFailed, ServerError, Unavailable
from backends.served import Served
from backends.wire.signature import Signature, TensorSpec
from backends.wire.tensors import from_bytes, to_bytes


class StepChanged(Unavailable):
    """A step no longer has the signature with which the ensemble was checked."""


Tensor = tuple[Part, tuple[int, ...]]
"""Data and shape, with the batch axis if there is one."""
METADATA_TIMEOUT_S: Final = 10.0
STEP_TIMEOUT_S: Final = 60.0
"""Of a request to another server, unless the client's own timeout is shorter."""
RECHECK_INTERVAL_S: Final = 1.0
"""A step that refuses what fits its signature is asked for the signature, at most this often."""
CHANGED: Final = "has other inputs, outputs or max_batch_size now; the ensemble is checked again"
MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""Of another server; as large as a request to this one may be."""


class LocalStep:
    """A model of this server; `signature` is what it took and gave when the step was checked."""

    def __init__(self, config: EnsembleStep, find: Callable[[str, str], Served]) -> None:
        """Raises NotFound, Unavailable."""
        self.config = config
        self._find = find
        self.served = self._model()
        self.signature = self.served.signature

    async def run(self, tensors: Mapping[str, Tensor], rows: int, timeout: float) -> list[np.ndarray]:
        """The outputs in the model's order. Raises ServerError."""
        served = self._model()
        if served.signature is not self.signature and served.signature != self.signature:
            raise StepChanged(f"step {served.name!r} {CHANGED}")
        given = [tensors[self.config.input_map[name]] for name in served.signature.inputs]
        batched = served.config.max_batch_size > 0
        key = tuple(shape[1:] if batched else shape for _, shape in given)
        entry = FutureEntry(tuple(part for part, _ in given), rows, key, time.perf_counter_ns())
        served.submit(entry, timeout)
        try:
            return await entry.future
        finally:
            served.abandon(entry)

    def _model(self) -> Served:
        version = self.config.model_version
        return self._find(self.config.model_name, "" if version == -1 else str(version))


class HttpStep:
    """A model of another server that speaks the Open Inference Protocol."""

    def __init__(self, config: EnsembleStep, client: httpx.AsyncClient, signature: Signature) -> None:
        self.config = config
        self.signature = signature
        self._client = client
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in config.output_map]
        self._outputs = outputs
        self._checking = asyncio.Lock()
        self._checked_at = -math.inf
        self._changed = False

    @classmethod
    async def of(cls, config: EnsembleStep, client: httpx.AsyncClient) -> HttpStep:
        """Asks the other server for the model's signature. Raises LoadError."""
        return cls(config, client, await _signature(config, client))

    async def run(self, tensors: Mapping[str, Tensor], rows: int, timeout: float) -> list[np.ndarray]:
        """See `LocalStep`. Raises ServerError."""
        content, head = self._request(tensors)
        fields = {
            "inference-header-content-length": str(head),
            "content-type": "application/octet-stream",
        }
        path, seconds = f"{_path(self.config)}/infer", min(timeout or STEP_TIMEOUT_S, STEP_TIMEOUT_S)
        try:
            response = await _exchanged(self._client, "POST", path, seconds, content=content, headers=fields)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"{_title(self.config)}: {type(error).__name__}") from None
        except ValueError as error:
            raise self._misunderstood(error) from None
        if response.status_code != 200:
            if response.is_client_error:
                await self.check()
            raise self._error(response)
        try:
            given = _outputs(response)
            mapped = self.config.output_map
            return [given[name] if name in mapped else _NONE for name in self.signature.outputs]
        except (InvalidInput, ValueError, LookupError, TypeError) as error:
            await self.check()
            raise self._misunderstood(error) from None

    async def check(self) -> None:
        """Asks for the signature again, if that was not done just now. Raises StepChanged."""
        async with self._checking:
            if time.monotonic() - self._checked_at > RECHECK_INTERVAL_S:
                with contextlib.suppress(LoadError):
                    self._changed = await _signature(self.config, self._client) != self.signature
                self._checked_at = time.monotonic()
        if self._changed:
            raise StepChanged(f"{_title(self.config)} {CHANGED}")

    def _request(self, tensors: Mapping[str, Tensor]) -> tuple[bytes, int]:
        inputs, raw = [], []
        for name, spec in self.signature.inputs.items():
            part, shape = tensors[self.config.input_map[name]]
            raw.append(to_bytes(spec.datatype, part) if isinstance(part, np.ndarray) else bytes(part))
            inputs.append(
                {
                    "name": name,
                    "datatype": spec.datatype.name,
                    "shape": shape,
                    "parameters": {"binary_data_size": len(raw[-1])},
                }
            )
        head = orjson.dumps({"inputs": inputs, "outputs": self._outputs})
        return b"".join((head, *raw)), len(head)

    def _misunderstood(self, error: Exception) -> ModelFailed:
        return ModelFailed(f"{_title(self.config)} gave a response that is not understood: {error}")

    def _error(self, response: httpx.Response) -> ServerError:
        text = f"{_title(self.config)}: {_message(response)}"
        return InvalidInput(text) if response.status_code == 400 else Unavailable(text)


Step = LocalStep | HttpStep
_NONE: Final = np.empty(0)
"""In place of an output that no tensor of the ensemble takes."""


async def open_steps(
    configs: tuple[EnsembleStep, ...], find: Callable[[EnsembleStep], Step], stack: AsyncExitStack
) -> list[Step]:
    """All steps; ``find`` gives local ones, and ``stack`` closes the connections. Raises LoadError."""
    clients: dict[str, httpx.AsyncClient] = {}
    steps: list[Step] = []
    for config in configs:
        if config.url is None:
            steps.append(find(config))
            continue
        if config.url not in clients:
            client = httpx.AsyncClient(base_url=config.url)
            clients[config.url] = await stack.enter_async_context(client)
        steps.append(await HttpStep.of(config, clients[config.url]))
    return steps


def _title(config: EnsembleStep) -> str:
    return f"step {config.model_name!r} at {config.url}"


def _message(response: httpx.Response) -> str:
    """What an error response says."""
    try:
        return str(response.json()["error"])
    except (ValueError, LookupError, TypeError):
        return f"status {response.status_code}"


async def _signature(config: EnsembleStep, client: httpx.AsyncClient) -> Signature:
    """Inputs and outputs of a model in another server; its max_batch_size if it tells that. Raises LoadError."""
    try:
        response = await _exchanged(client, "GET", _path(config), METADATA_TIMEOUT_S)
        response.raise_for_status()
        document = response.json()
        inputs, outputs = _specs(document["inputs"]), _specs(document["outputs"])
        settings = await _exchanged(client, "GET", f"{_path(config)}/config", METADATA_TIMEOUT_S)
        rows = int(settings.json()["max_batch_size"]) if settings.status_code == 200 else 0
    except httpx.HTTPStatusError as error:
        raise LoadError(f"{_title(config)}: {_message(error.response)}") from None
    except (httpx.HTTPError, TimeoutError) as error:
        raise LoadError(f"{_title(config)} is not reached ({type(error).__name__})") from None
    except (ValueError, LookupError, TypeError) as error:
        raise LoadError(
            f"{_title(config)} gave metadata that is not understood: {type(error).__name__}: {error}"
        ) from None
    return Signature(inputs, outputs, rows, ((), ()))


async def _exchanged(
    client: httpx.AsyncClient, method: str, path: str, seconds: float, **given: Any
) -> httpx.Response:
    """A whole response, after at most ``seconds``. Raises httpx.HTTPError, TimeoutError, ValueError (too large)."""
    body = bytearray()
    async with (
        asyncio.timeout(seconds),  # httpx limits only the time between two pieces
        client.stream(method, path, timeout=seconds, **given) as response,
    ):
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MAX_RESPONSE_BYTES:
                raise ValueError(f"it has more than {MAX_RESPONSE_BYTES} bytes")
    fields = [(name, value) for name, value in response.headers.items() if name != "content-encoding"]
    return httpx.Response(response.status_code, headers=fields, content=bytes(body), request=response.request)


def _path(config: EnsembleStep) -> str:
    version = "" if config.model_version == -1 else f"/versions/{config.model_version}"
    return f"/v2/models/{config.model_name}{version}"


def _specs(tensors: list[dict[str, Any]]) -> dict[str, TensorSpec]:
    return {
        one["name"]: TensorSpec(index, one["name"], named(one["datatype"]), tuple(map(int, one["shape"])))
        for index, one in enumerate(tensors)
    }


def _outputs(response: httpx.Response) -> dict[str, np.ndarray]:
    """Raises InvalidInput, ValueError, LookupError, TypeError."""
    content = response.content
    place = int(response.headers["inference-header-content-length"])
    arrays = {}
    for one in orjson.loads(content[:place])["outputs"]:
        size = int(one["parameters"]["binary_data_size"])
        data = memoryview(content)[place : place + size]
        arrays[one["name"]] = from_bytes(one["name"], named(one["datatype"]), tuple(one["shape"]), data)
        place += size
    return arrays
