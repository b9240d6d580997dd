"""Tensor data as JSON and as raw bytes, each way, checked on the way in.

numpy is lenient where a server must not be: it takes the string "1.5" for a float, True for 1, and
cuts 2.7 down to 2 for an integer. So the types of JSON values are looked at first, in C, through
``set(map(type, values))``.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import Any, Final

import numpy as np

from backends.datatypes import Datatype, bf16_to_fp32, fp32_to_bf16
from backends.errors import InvalidInput

_JSON_TYPES: Final[dict[str, set[type]]] = {
    "float": {int, float},
    "int": {int},
    "bool": {bool},
    "bytes": {str},
}
_WANTED: Final = {"float": "numbers", "int": "whole numbers", "bool": "true and false", "bytes": "strings"}


def from_json(name: str, datatype: Datatype, shape: tuple[int, ...], data: object) -> np.ndarray:
    """The array of ``shape`` from a flat or nested JSON list. Raises InvalidInput."""
    values = _flat(name, shape, data)
    if len(values) != math.prod(shape):
        raise InvalidInput(
            f"input {name!r} has {len(values)} values in data; shape {list(shape)} needs {math.prod(shape)}"
        )
    if not set(map(type, values)) <= _JSON_TYPES[datatype.kind]:
        raise InvalidInput(f"input {name!r} is {datatype.name}; send only {_WANTED[datatype.kind]} in data")
    return _array(name, datatype, values).reshape(shape)


def _flat(name: str, shape: tuple[int, ...], data: object) -> list[Any]:
    if type(data) is not list:
        raise InvalidInput(f"data of input {name!r} is not a list; send its values as a list")
    if not data or type(data[0]) is not list:
        return data
    level: list[Any] = data
    for axis, size in enumerate(shape[1:], start=1):
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise InvalidInput(
                f"data of input {name!r} is nested otherwise than its shape on axis {axis}; send it flat"
            )
        level = list(chain.from_iterable(level))
    return level


def _array(name: str, datatype: Datatype, values: list[Any]) -> np.ndarray:
    if datatype.kind == "bytes":
        return _objects([value.encode() for value in values])  # orjson lets no lone surrogate through
    try:
        return _numbers(datatype, values)
    except (OverflowError, struct.error):
        raise InvalidInput(
            f"input {name!r} has a value outside the range of {datatype.name}; send one inside it"
        ) from None


def _numbers(datatype: Datatype, values: list[Any]) -> np.ndarray:
    """Raises OverflowError or struct.error when a value doesn't fit. (JSON's own are all finite.)"""
    if datatype.kind != "float":
        return np.array(values, dtype=datatype.dtype)
    brain = datatype.name == "BF16"
    dtype = np.dtype("<f4") if brain else datatype.dtype
    # numpy would write an infinity for a value out of range, and takes twice as long.
    numbers: np.ndarray = np.frombuffer(struct.pack(f"<{len(values)}{dtype.char}", *values), dtype)
    if not brain:
        return numbers
    rounded = fp32_to_bf16(numbers)
    if not np.isfinite(bf16_to_fp32(rounded)).all():
        raise OverflowError
    return rounded


def _objects(elements: list[bytes]) -> np.ndarray:
    strings = np.empty(len(elements), dtype=object)
    strings[:] = elements
    return strings


def from_bytes(name: str, datatype: Datatype, shape: tuple[int, ...], data: memoryview) -> np.ndarray:
    """The array of ``shape`` from raw little-endian bytes; a view of ``data``, but for BYTES.

    Raises InvalidInput.
    """
    count = math.prod(shape)
    if datatype.kind == "bytes":
        return _strings(name, count, data).reshape(shape)
    needed = count * datatype.size
    if len(data) != needed:
        raise InvalidInput(
            f"input {name!r} has {len(data)} bytes of data; {datatype.name} {list(shape)} needs {needed}"
        )
    if datatype.kind == "bool":
        raw = np.frombuffer(data, dtype=np.uint8)
        if raw.size and raw.max() > 1:
            raise InvalidInput(f"input {name!r} is BOOL; send only the bytes 0 and 1")
    return np.frombuffer(data, dtype=datatype.dtype).reshape(shape)


def _strings(name: str, count: int, data: memoryview) -> np.ndarray:
    """BYTES elements: each a 4-byte little-endian length, then that many bytes."""
    elements: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < 4:
            raise InvalidInput(
                f"input {name!r} breaks off inside a length; send 4 bytes of length before each element"
            )
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4 + length
        if offset > end:
            raise InvalidInput(
                f"input {name!r} breaks off inside an element of {length} bytes; send all of them"
            )
        elements.append(bytes(data[offset - length : offset]))
    if len(elements) != count:
        raise InvalidInput(f"input {name!r} has {len(elements)} elements; its shape needs {count}")
    return _objects(elements)


def to_json(name: str, datatype: Datatype, values: np.ndarray) -> np.ndarray | list[str]:
    """Flat values for the JSON writer, which writes NaN and infinities as null. Raises InvalidInput."""
    flat = values.reshape(-1)
    if datatype.kind != "bytes":
        return np.ascontiguousarray(bf16_to_fp32(flat) if datatype.name == "BF16" else flat)
    try:
        return [element.decode() for element in flat]
    except UnicodeDecodeError:
        raise InvalidInput(
            f"output {name!r} has bytes that are not UTF-8; ask for it with binary_data: true"
        ) from None


def to_bytes(datatype: Datatype, values: np.ndarray) -> bytes:
    """The raw form of ``values``."""
    if datatype.kind != "bytes":
        return values.tobytes()
    return b"".join(struct.pack("<I", len(element)) + element for element in values.reshape(-1))
