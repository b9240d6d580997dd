"""Responses of the Open Inference Protocol over gRPC: `ModelInfer` and `ModelStreamInfer`.

Field numbers are those of Triton's ``grpc_service.proto``. A response does not name its method, so it is recognised
by what it holds: outputs with a name and a known datatype.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import Final

from policies.comparison import tensors
from policies.comparison.bodies import Json, Malformed, Response
from policies.comparison.protobuf import Value, fields, messages, signed, varints
from policies.comparison.tensors import Tensor

_ERROR, _INFER_RESPONSE = 1, 2
"""Fields of ModelStreamInferResponse."""
_OUTPUTS, _RAW = 5, 6
"""Fields of ModelInferResponse."""
_NAME, _DATATYPE, _SHAPE, _CONTENTS = 1, 2, 3, 5
"""Fields of InferOutputTensor."""
_BOOL, _INT, _INT64, _UINT, _UINT64, _FP32, _FP64, _BYTES = range(1, 9)
"""Fields of InferTensorContents."""
_FLOATS: Final = {_FP32: "f", _FP64: "d"}

Fields = dict[int, list[tuple[int, Value]]]


def is_grpc(response: Response) -> bool:
    """Whether the body is messages of gRPC."""
    return response.media == "application/grpc" or response.media.startswith("application/grpc+")


def recognises(body: bytes) -> bool:
    """Whether the messages are responses to ModelInfer or ModelStreamInfer; the first output tells."""
    try:
        first = next(messages(body), None)
        outputs = _response(_by_number(first))[_OUTPUTS] if first is not None else []
        return bool(outputs) and _text(_by_number(_last(outputs[:1])), _DATATYPE) in tensors.DATATYPES
    except Malformed:
        return False


def decode(body: bytes) -> dict[str, Tensor]:
    """The tensors by name; those of a stream together. Raises Malformed."""
    return tensors.join([_tensors(message) for message in messages(body)])


def _tensors(message: bytes) -> dict[str, Tensor]:
    parts = _response(_by_number(message))
    raw = iter(parts[_RAW])
    found: dict[str, Tensor] = {}
    for value in parts[_OUTPUTS]:
        output = _by_number(_last([value]))
        name = _text(output, _NAME)
        document: dict[str, Json] = {
            "datatype": _text(output, _DATATYPE),
            "shape": [signed(size) for size in varints(output[_SHAPE])],
        }
        if _CONTENTS in output:
            document["data"] = _contents(_last(output[_CONTENTS]))
            found[name] = tensors.from_values(name, document)
        elif (data := next(raw, None)) is not None:
            found[name] = tensors.from_bytes(name, document, memoryview(_last([data])))
        else:
            raise Malformed(f"output {name[:80]!r} has no contents")
    return found


def _response(parts: Fields) -> Fields:
    """The ModelInferResponse: the message itself, or what one of a stream carries. Raises Malformed."""
    if _OUTPUTS in parts:
        return parts
    for _, text in parts[_ERROR]:
        if isinstance(text, bytes) and text:
            raise Malformed(f"the response has no outputs but says: {text[:80].decode('utf-8', 'replace')}")
    return _by_number(_last(parts[_INFER_RESPONSE]))


def _contents(data: bytes) -> list[Json]:
    values: list[Json] = []
    for number, entries in _by_number(data).items():
        if number == _BYTES:
            values += [value for _, value in entries]
        elif number in _FLOATS:
            packed = b"".join(value for _, value in entries if isinstance(value, bytes))
            size = struct.calcsize(_FLOATS[number])
            if len(packed) % size:
                raise Malformed("the message ends within a number")
            values += struct.unpack(f"<{len(packed) // size}{_FLOATS[number]}", packed)
        else:
            numbers = varints(entries)
            values += [signed(n) for n in numbers] if number in (_INT, _INT64) else numbers
    return values


def _by_number(message: bytes) -> Fields:
    found: Fields = defaultdict(list)
    for number, kind, value in fields(message):
        found[number].append((kind, value))
    return found


def _last(values: list[tuple[int, Value]]) -> bytes:
    value = values[-1][1] if values else b""
    if not isinstance(value, bytes):
        raise Malformed("the message is none of the Open Inference Protocol")
    return value


def _text(parts: Fields, number: int) -> str:
    return _last(parts[number]).decode("utf-8", "replace")
