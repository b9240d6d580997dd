"""An inference request: parsed, and checked against what the model takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from backends.batching.entry import Part
from backends.errors import InvalidInput, TooLarge
from backends.wire.answer import Answer, Template
from backends.wire.document import (
    as_object,
    flag,
    parameters_of,
    parse_json,
    refuse_duplicates,
    request_id,
    timeout,
)
from backends.wire.signature import Signature, TensorSpec
from backends.wire.tensors import from_bytes, from_json

_REQUEST_KEYS: Final = frozenset({"id", "model_name", "model_version", "parameters", "inputs", "outputs"})
_MAX_AXES: Final = 32
"""numpy's older limit; it also keeps the product of a shape cheap."""
_MAX_ARRAY_BYTES: Final = 2**63
MAX_REMEMBERED_BYTES: Final = 2048
MAX_REMEMBERED_PLANS: Final = 256
MAX_JSON_BYTES: Final = 4 * 1024 * 1024
"""Parsing takes 0.1 to 1 s at this size, and up to thirty times its memory."""


Key = tuple[tuple[int, ...], ...]


@dataclass(slots=True, eq=False)
class Plan:
    """What the JSON part of a request says, checked; equal JSON means an equal plan."""

    id: str | None
    key: Key
    """The shape of each input without the batch axis: requests with equal keys can share a batch."""
    rows: int
    """1 where the model has no batch axis."""
    outputs: tuple[tuple[TensorSpec, bool], ...]
    """The outputs to send, each with whether as binary data."""
    timeout: float
    """Seconds that it may wait in the queue; 0: as the model's configuration says."""
    sources: tuple[np.ndarray | Slice, ...]
    """Each input in the order of the configuration: its values, or where its binary data are."""
    end: int
    """Bytes of binary data."""
    plain: bool
    """Whether all inputs are numbers in binary data, so that no value needs a look."""
    template: Template | None = None
    """Of the last answer to this plan."""

    def answer(self, identity: bytes, arrays: list[np.ndarray]) -> Answer:
        """See `Template`. Raises InvalidInput."""
        template = self.template
        if template is None or not template.fits(arrays):
            template = self.template = Template(identity, self.id, self.outputs, arrays)
        return template.fill(arrays)

    def inputs(self, binary: memoryview) -> tuple[Part, ...]:
        """The inputs of a request with ``binary`` behind its JSON. Raises InvalidInput."""
        if len(binary) != self.end:
            if len(binary) < self.end:
                raise InvalidInput(f"the body ends inside the binary data; send all {self.end} bytes")
            raise InvalidInput(
                f"{len(binary) - self.end} bytes follow the last tensor; send none, or say binary_data_size"
            )
        if self.plain:
            return tuple([binary[source.start : source.end] for source in self.sources])  # type: ignore[union-attr]
        return tuple(source.array(binary) if isinstance(source, Slice) else source for source in self.sources)


@dataclass(slots=True)
class Slice:
    """Where the binary data of one input are."""

    spec: TensorSpec
    shape: tuple[int, ...]
    start: int
    end: int

    def array(self, binary: memoryview) -> np.ndarray:
        """The values. Raises InvalidInput."""
        return from_bytes(self.spec.name, self.spec.datatype, self.shape, binary[self.start : self.end])

    def check(self) -> None:
        """Raises InvalidInput if the size can't be that of the shape."""
        datatype = self.spec.datatype
        needed = math.prod(self.shape) * datatype.size
        if datatype.size and self.end - self.start != needed:
            raise InvalidInput(
                f"input {self.spec.name!r} has {self.end - self.start} bytes of data; "
                f"{datatype.name} {list(self.shape)} needs {needed}"
            )


@dataclass(slots=True)
class InferRequest:
    """A request that the model can take."""

    plan: Plan
    inputs: tuple[Part, ...]


class Plans:
    """The plans of requests that came before, by the exact bytes of their JSON part; bounded."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._plans: dict[bytes, Plan] = {}

    def parse(self, body: bytes, header_length: bytes | None) -> InferRequest:
        """The request in ``body``. Raises InvalidInput, TooLarge.

        ``header_length`` is the value of ``inference-header-content-length``: how much of the body is
        JSON, before the binary data; without it all of it is JSON.
        """
        size = json_size(header_length, len(body))
        if size == len(body):
            return self._parse_json(body)
        head = body[:size] if size <= MAX_REMEMBERED_BYTES else b""
        plan = self._plans.get(head)
        if plan is None:
            plan, _ = plan_of(memoryview(body)[:size], len(body) - size, self._signature)
            if plan.plain:
                self._remember(head, plan)
        return InferRequest(plan, plan.inputs(memoryview(body)[size:]))

    def _parse_json(self, body: bytes) -> InferRequest:
        """JSON with one input is remembered without its values: what stands before and behind them."""
        start = body.find(b"[", body.find(b'"data"'))
        end = body.find(b"]", start) + 1
        head = (
            b"%b\0%b" % (body[:start], body[end:])
            if len(body) - (end - start) < MAX_REMEMBERED_BYTES
            else b""
        )
        plan = self._plans.get(head)
        if plan is not None:
            # In JSON, any list may take the place of another, so the rest means the same as before.
            try:
                values = orjson.loads(memoryview(body)[start:end])
            except orjson.JSONDecodeError:
                pass  # not a flat list of numbers
            else:
                (source,) = plan.sources
                spec = self._signature.only_input
                return InferRequest(plan, (from_json(spec.name, spec.datatype, source.shape, values),))
        plan, document = plan_of(memoryview(body), 0, self._signature)
        request = InferRequest(plan, plan.inputs(memoryview(b"")))
        if head and len(plan.sources) == 1 and not plan.end and _is_data(document, body, start, end):
            # Without the values, which may take megabytes: later requests only need the shape.
            plan.sources = (Slice(self._signature.only_input, plan.sources[0].shape, 0, 0),)
            self._remember(head, plan)
        return request

    def _remember(self, head: bytes, plan: Plan) -> None:
        if head and plan.id is None:
            if len(self._plans) >= MAX_REMEMBERED_PLANS:
                self._plans.clear()
            self._plans[head] = plan


def _is_data(document: dict[str, Any], body: bytes, start: int, end: int) -> bool:
    """Whether ``body[start:end]`` is the value of `data` of the only input: without it, that alone differs."""
    try:
        other = orjson.loads(b"%b[]%b" % (body[:start], body[end:]))
    except orjson.JSONDecodeError:
        return False
    document["inputs"][0]["data"] = []
    return bool(other == document)


def plan_of(text: memoryview, available: int, signature: Signature) -> tuple[Plan, dict[str, Any]]:
    """The plan in the JSON ``text`` before ``available`` bytes of binary data, and the document.

    Raises InvalidInput.
    """
    document = as_object(parse_json(text, "; NaN and infinities go as binary data"), "the request")
    refuse_duplicates(text)
    if not document.keys() <= _REQUEST_KEYS:
        raise InvalidInput(
            f"unknown key {min(document.keys() - _REQUEST_KEYS)!r}; send only id, inputs, outputs, parameters"
        )
    parameters = parameters_of(document, "the request")
    sources, end = _inputs(document.get("inputs"), available, signature)
    shapes = [source.shape for source in sources]
    batched = signature.max_batch_size > 0
    plan = Plan(
        id=request_id(document.get("id")),
        key=tuple([shape[1:] for shape in shapes]) if batched else tuple(shapes),
        rows=_rows(shapes, signature),
        outputs=_outputs(document.get("outputs"), flag(parameters, "binary_data_output"), signature),
        timeout=timeout(parameters),
        sources=sources,
        end=end,
        plain=all(isinstance(one, Slice) and one.spec.datatype.kind in ("int", "float") for one in sources),
    )
    return plan, document


def too_much_json() -> TooLarge:
    """The error for a JSON part beyond `MAX_JSON_BYTES`."""
    return TooLarge(f"the JSON has more than {MAX_JSON_BYTES} bytes; send tensors as binary data")


def json_size(header_length: bytes | None, total: int) -> int:
    """Bytes of the JSON part of a body of ``total`` bytes. Raises InvalidInput, TooLarge."""
    size = total
    if header_length is not None:
        if not header_length.isdigit() or len(header_length) > 19 or int(header_length) > total:
            raise InvalidInput(
                "inference-header-content-length is not a length within the body; send the bytes of the JSON part"
            )
        size = int(header_length)
    if size > MAX_JSON_BYTES:
        raise too_much_json()
    return size


def _inputs(
    items: object, available: int, signature: Signature
) -> tuple[tuple[np.ndarray | Slice, ...], int]:
    """Each input, and the bytes of binary data that they take of the ``available``."""
    if type(items) is not list or not items:
        raise InvalidInput(f"inputs is not a list of tensors; send {_listing(signature.inputs.values())}")
    sources: dict[str, np.ndarray | Slice] = {}
    offset = 0
    for item in items:
        spec, tensor = _described(item, signature)
        if spec.name in sources:
            raise InvalidInput(f"input {spec.name!r} is there twice; send it once")
        shape = _shape(tensor, spec)
        size = _binary_size(tensor, spec)
        if size is None:
            sources[spec.name] = from_json(spec.name, spec.datatype, shape, tensor["data"])
            continue
        place = Slice(spec, shape, offset, offset + size)
        place.check()
        sources[spec.name] = place
        offset += size
        if offset > available:
            raise InvalidInput(
                f"the body ends inside the binary data of input {spec.name!r}; send all {size} bytes"
            )
    if len(sources) != len(signature.inputs):
        missing = [spec for name, spec in signature.inputs.items() if name not in sources]
        raise InvalidInput(f"missing input {_listing(missing)}; send every input of the model")
    return tuple(sources[name] for name in signature.inputs), offset


def _listing(specs: Any) -> str:
    return ", ".join(str(spec) for spec in specs)


def _described(item: object, signature: Signature) -> tuple[TensorSpec, dict[str, Any]]:
    tensor = as_object(item, "an entry of inputs")
    name = tensor.get("name")
    spec = signature.inputs.get(name) if type(name) is str else None
    if spec is None:
        raise InvalidInput(f"unknown input {name!r}; the model takes {_listing(signature.inputs.values())}")
    if tensor.get("datatype") != spec.datatype.name:
        raise InvalidInput(
            f"input {name!r} came with datatype {tensor.get('datatype')!r}; send {spec.datatype.name}"
        )
    return spec, tensor


def _shape(tensor: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if type(shape) is not list or len(shape) > _MAX_AXES or not set(map(type, shape)) <= {int}:
        raise InvalidInput(
            f"shape of input {spec.name!r} is not a list of whole numbers; send {list(spec.shape)}"
        )
    if not _fits(shape, spec.shape):
        raise InvalidInput(
            f"input {spec.name!r} came with shape {shape}; send {list(spec.shape)}, where -1 is any size"
        )
    # Without elements nothing else limits the other sizes.
    size = math.prod(axis for axis in shape if axis) * spec.datatype.dtype.itemsize
    if 0 in shape and size >= _MAX_ARRAY_BYTES:
        raise InvalidInput(f"shape of input {spec.name!r} is too large for an array; send smaller sizes")
    return tuple(shape)


def _fits(shape: list[int], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for got, want in zip(shape, wanted, strict=True):  # noqa: SIM110  `all` over a generator takes thrice the time
        if got < 0 or got != want != -1:
            return False
    return True


def _binary_size(tensor: dict[str, Any], spec: TensorSpec) -> int | None:
    """The size of the tensor's binary data; None when its data is in the JSON."""
    parameters = parameters_of(tensor, f"input {spec.name!r}")
    if "shared_memory_region" in parameters:
        raise InvalidInput(
            f"input {spec.name!r} is in shared memory, which is not served here; send the data itself"
        )
    size = parameters.get("binary_data_size")
    if (size is None) != ("data" in tensor):
        raise InvalidInput(
            f"input {spec.name!r} needs its data in exactly one form; send data or binary_data_size"
        )
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidInput(
            f"binary_data_size of input {spec.name!r} is not a size; send the bytes of its data"
        )
    return size


def _rows(shapes: list[tuple[int, ...]], signature: Signature) -> int:
    if not signature.max_batch_size:
        return 1
    rows = {shape[0] for shape in shapes}
    if len(rows) != 1:
        raise InvalidInput(f"the inputs have {sorted(rows)} rows; send as many in each")
    (count,) = rows
    if not 1 <= count <= signature.max_batch_size:
        raise InvalidInput(f"the request has {count} rows; send from 1 to {signature.max_batch_size}")
    return count


def _outputs(items: object, default: bool, signature: Signature) -> tuple[tuple[TensorSpec, bool], ...]:
    if items is None or items == []:
        return signature.all_outputs[default]
    if type(items) is not list:
        raise InvalidInput(
            f"outputs is not a list; send some of {_listing(signature.outputs.values())}, or leave it out"
        )
    chosen = [_output(item, default, signature) for item in items]
    if len({spec.name for spec, _ in chosen}) != len(chosen):
        raise InvalidInput("an output is asked for twice; ask once")
    return tuple(chosen)


def _output(item: object, default: bool, signature: Signature) -> tuple[TensorSpec, bool]:
    wanted = as_object(item, "an entry of outputs")
    name = wanted.get("name")
    spec = signature.outputs.get(name) if type(name) is str else None
    if spec is None:
        raise InvalidInput(f"unknown output {name!r}; the model gives {_listing(signature.outputs.values())}")
    parameters = parameters_of(wanted, f"output {name!r}")
    for unserved in ("shared_memory_region", "classification"):
        if parameters.get(unserved):
            raise InvalidInput(f"output {name!r} asks for {unserved}, which is not served here; leave it out")
    return spec, flag(parameters, "binary_data", default)
