"""httpx responses that carry their decision."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Self

import httpx

from turnout.decision import Decision, remember
from turnout.errors import NoDecision
from turnout.options import ClientOptions

Put = Callable[[dict[str, Any]], None]


class Response(httpx.Response):
    """An ``httpx.Response`` of a gateway."""

    _decision: Decision | None = None

    @property
    def decision(self) -> Decision:
        """The decision behind this response. Raises NoDecision for the gateway's own responses."""
        if self._decision is None:
            raise NoDecision(
                f"the response of {self.request.url} (status {self.status_code}) carries no x-decision-id"
                + self._reason()
            )
        return self._decision

    def raise_for_status(self) -> Self:
        """Raises httpx.HTTPStatusError as httpx does, with the gateway's message in it."""
        try:
            super().raise_for_status()
        except httpx.HTTPStatusError:
            message = f"{self.url} responded with {self.status_code}{self._reason()}"
            raise httpx.HTTPStatusError(message, request=self.request, response=self) from None
        return self

    def _reason(self) -> str:
        """What the gateway or an inference server says in an error response that was read; "" for another response."""
        try:
            error = self.json()["error"]
            return f": {error}" if isinstance(error, str) else f": {error['code']}: {error['message']}"
        except (httpx.ResponseNotRead, ValueError, KeyError, TypeError):
            return ""

    def outputs(self) -> dict[str, Any]:
        """The outputs of an Open Inference Protocol response by name, as nested lists in their shapes.

        Raises ``httpx.HTTPStatusError`` for an error response, and KeyError where there are no outputs.
        """
        self.raise_for_status()
        return {each["name"]: _nested(each["data"], each["shape"]) for each in self.json()["outputs"]}


def _nested(data: list[Any], shape: list[int]) -> Any:
    """``data`` in ``shape``; servers send it flat or nested already."""
    if len(shape) < 2 or (data and isinstance(data[0], list)):
        return data
    step = len(data) // shape[0] if shape[0] else 0
    return [_nested(data[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def decided(plain: httpx.Response, put: Put) -> Response:
    """``plain``, as its transport made it, with its decision."""
    found = Response(
        plain.status_code, headers=plain.headers, stream=plain.stream, extensions=plain.extensions
    )
    found._decision = Decision.of(plain.headers, put)
    remember(found._decision)
    return found


class Transport(httpx.BaseTransport):
    """Wraps a transport; its responses are `Response`."""

    def __init__(
        self, inner: httpx.BaseTransport, put: Put, again: Callable[[], httpx.BaseTransport]
    ) -> None:
        """``again``: makes the transport of a forked child, which must not use its parent's connections."""
        self._inner = inner
        self._put = put
        self._again = again
        self._pid = os.getpid()
        self._of_parent: httpx.BaseTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self._pid != os.getpid():
            # Kept and not closed: a thread of the parent may have held its lock.
            self._of_parent, self._inner, self._pid = self._inner, self._again(), os.getpid()
        return decided(self._inner.handle_request(request), self._put)

    def close(self) -> None:
        if self._pid == os.getpid():
            self._inner.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """Wraps a transport; its responses are `Response`."""

    def __init__(self, inner: httpx.AsyncBaseTransport, put: Put) -> None:
        self._inner = inner
        self._put = put

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return decided(await self._inner.handle_async_request(request), self._put)

    async def aclose(self) -> None:
        await self._inner.aclose()


def transport_options(options: ClientOptions) -> dict[str, Any]:
    """Those of a client's ``options`` that httpx ignores if it is given a transport; a proxy is removed from them."""
    names = ("cert", "trust_env", "http1", "http2", "limits")
    proxy = {"proxy": options.pop("proxy")} if "proxy" in options else {}
    return {name: options[name] for name in names if name in options} | proxy


def gateway_url(url: str) -> httpx.URL:
    """``url`` as a client's base. Raises ValueError if it is not the URL of a gateway."""
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        found = httpx.URL()
    if found.scheme not in ("http", "https") or not found.host or found.query:
        raise ValueError(f"{url!r} is not the URL of a gateway; write one such as http://127.0.0.1:8080")
    return found


def decide_call(
    route: str, unit: str | int | None, features: Mapping[str, Any] | None, variant: str | None
) -> dict[str, Any]:
    """The arguments of the ``post`` that asks for a decision."""
    body = {"route": route, "unit": unit, "features": dict(features or {})}
    return {"json": body, "headers": {"x-variant": variant} if variant else {}}


def infer_body(inputs: dict[str, Any]) -> dict[str, Any]:
    """The Open Inference Protocol body for numpy arrays, or for (nested) lists of numbers or strings."""
    return {"inputs": [_tensor(name, value) for name, value in inputs.items()]}


_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
"""numpy's names → the protocol's; anything else is BYTES."""
_PYTHON_DATATYPES = {bool: "BOOL", int: "INT64", str: "BYTES"}


def _tensor(name: str, value: Any) -> dict[str, Any]:
    if hasattr(value, "dtype"):
        datatype = _DATATYPES.get(str(value.dtype), "BYTES")
        return {
            "name": name,
            "shape": list(value.shape),
            "datatype": datatype,
            "data": value.ravel().tolist(),
        }
    shape, elements = [], [value]
    while elements and isinstance(elements[0], list):
        shape.append(len(elements[0]))
        elements = [*chain.from_iterable(one for one in elements if isinstance(one, list))]
    return {"name": name, "shape": shape, "datatype": _python_datatype(name, elements), "data": value}


def _python_datatype(name: str, elements: list[Any]) -> str:
    kinds = set(map(type, elements))  # all of them: 0 before 0.5 is a float, too
    if len(kinds) > 1 and kinds & {bool, str}:
        mixed = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"the input {name!r} mixes {mixed}; give all values one type, or a numpy array")
    return _PYTHON_DATATYPES.get(kinds.pop(), "FP32") if len(kinds) == 1 else "FP32"
