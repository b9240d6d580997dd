"""Open Inference Protocol v2: tensors by name, in JSON or binary form, whole or streamed, decoded alike."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from policies.comparison.bodies import Comparison, Json, Malformed, Response, dictionary, parse_json, sequence
from policies.comparison.differences import Findings

Array = npt.NDArray[Any]

_KINDS: Final[dict[str, tuple[str, str]]] = {
    "BOOL": ("bool", "?"),
    "UINT8": ("int", "<u1"),
    "UINT16": ("int", "<u2"),
    "UINT32": ("int", "<u4"),
    "UINT64": ("int", "<u8"),
    "INT8": ("int", "<i1"),
    "INT16": ("int", "<i2"),
    "INT32": ("int", "<i4"),
    "INT64": ("int", "<i8"),
    "FP16": ("float", "<f2"),
    "BF16": ("float", "<u2"),
    "FP32": ("float", "<f4"),
    "FP64": ("float", "<f8"),
    "BYTES": ("bytes", "O"),
}
DATATYPES: Final = frozenset(_KINDS)


@dataclass(frozen=True, slots=True)
class Tensor:
    """``values`` flat: float64 for every float type, 64-bit integers, booleans, or bytes objects."""

    kind: str
    shape: tuple[int, ...]
    values: Array


def is_v2(document: Json) -> bool:
    """Whether a JSON document looks like a v2 response."""
    outputs = dictionary(document).get("outputs")
    return isinstance(outputs, list) and all(
        isinstance(output, dict)
        and isinstance(output.get("name"), str)
        and isinstance(output.get("datatype"), str)
        for output in outputs
    )


def decode(response: Response, body: bytes) -> dict[str, Tensor]:
    """Tensors by name of a response whose JSON part has a length of its own. Raises Malformed."""
    length = _header_length(response.inference_header, len(body))
    return from_document(parse_json(body[:length]), memoryview(body)[length:])


def from_document(document: Json, binary: memoryview | None = None) -> dict[str, Tensor]:
    """Tensors by name. ``binary``: the bytes of those in binary form. Raises Malformed."""
    rest = memoryview(b"") if binary is None else binary
    if not is_v2(document):
        raise Malformed("the response has no list 'outputs' of tensors with name and datatype")
    tensors: dict[str, Tensor] = {}
    for output in document["outputs"]:
        name = output["name"]
        size = dictionary(output.get("parameters")).get("binary_data_size")
        if size is None:
            tensors[name] = from_values(name, output)
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise Malformed(f"output {name[:80]!r} says it has more binary data than there is")
        tensors[name] = from_bytes(name, output, rest[:size])
        rest = rest[size:]
    if len(rest):
        raise Malformed(f"{len(rest)} bytes are left behind the last tensor")
    return tensors


def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a stream as one: text is put together, others are stacked. Raises Malformed."""
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _join(name, [part[name] for part in parts if name in part]) for name in names}


def _join(name: str, pieces: list[Tensor]) -> Tensor:
    first = pieces[0]
    if all(piece.kind == "bytes" and piece.values.size == 1 for piece in pieces):
        return Tensor("bytes", first.shape, _objects([b"".join(piece.values[0] for piece in pieces)]))
    if any(piece.kind != first.kind or piece.shape[1:] != first.shape[1:] for piece in pieces):
        raise Malformed(f"output {name[:80]!r} changes its type or shape within the stream")
    rows = sum(piece.shape[0] if piece.shape else 1 for piece in pieces)
    return Tensor(first.kind, (rows, *first.shape[1:]), np.concatenate([piece.values for piece in pieces]))


def _header_length(text: str, size: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= size):
        raise Malformed("inference-header-content-length is not a length within the body")
    return int(text)


def _frame(name: str, output: dict[str, Json], most: int) -> tuple[str, str, tuple[int, ...], int]:
    """(kind, numpy type, shape, number of elements), checked against the ``most`` that can be there."""
    kind, dtype = _KINDS.get(output["datatype"], ("", ""))
    if not kind:
        raise Malformed(f"output {name[:80]!r} has a datatype that is not known")
    shape = sequence(output.get("shape"))
    if not all(type(size) is int and 0 <= size <= most for size in shape) or len(shape) > 32:
        raise Malformed(f"output {name[:80]!r} has no valid shape")
    return kind, dtype, tuple(shape), math.prod(shape)


def from_values(name: str, output: dict[str, Json]) -> Tensor:
    """The tensor ``name`` whose ``data`` is a list of values, nested or not. Raises Malformed."""
    values = flatten(output.get("data"))
    # A size of 0 makes the product 0 whatever the others are, so these are bounded by something, too.
    kind, dtype, shape, count = _frame(name, output, max(len(values), 2**31))
    if count != len(values):
        raise Malformed(f"output {name[:80]!r} has another number of values than its shape")
    try:
        return Tensor(kind, shape, _array(kind, dtype, output["datatype"], values))
    except (OverflowError, TypeError, ValueError) as fault:
        raise Malformed(f"output {name[:80]!r} has a value that its datatype can't hold") from fault


def _array(kind: str, dtype: str, datatype: str, values: list[Json]) -> Array:
    if kind == "bytes":
        texts = _only(values, str, bytes)
        return _objects([v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v for v in texts])
    if kind == "bool":
        return np.asarray(_only(values, bool, int), dtype=bool)
    if kind == "int":
        return np.asarray(_only(values, int), dtype=dtype)
    # What the binary form holds in few bits, the JSON form must be rounded to.
    numbers = [math.nan if value is None else value for value in _only(values, int, float, type(None))]
    with np.errstate(all="ignore"):
        wide = np.asarray([float(number) for number in numbers], dtype=np.float64)
        if datatype == "BF16":
            return _widen(_to_bf16(wide))
        return wide.astype(dtype).astype(np.float64)


def _only(values: list[Json], *types: type) -> list[Json]:
    if not set(map(type, values)) <= set(types):
        raise TypeError
    return values


def from_bytes(name: str, output: dict[str, Json], data: memoryview) -> Tensor:
    """The tensor ``name`` whose values are ``data`` in binary form. Raises Malformed."""
    kind, dtype, shape, count = _frame(name, output, 2**31)
    if kind == "bytes":
        return Tensor(kind, shape, _objects(_strings(name, data, count)))
    if count * np.dtype(dtype).itemsize != len(data):
        raise Malformed(f"output {name[:80]!r} has another number of bytes than its shape")
    if kind == "bool":
        return Tensor(kind, shape, np.frombuffer(data, dtype=np.uint8) != 0)
    raw = np.frombuffer(data, dtype=dtype)
    if kind == "int":
        return Tensor(kind, shape, raw)
    return Tensor(kind, shape, _widen(raw) if output["datatype"] == "BF16" else raw.astype(np.float64))


def _strings(name: str, data: memoryview, count: int) -> list[bytes]:
    """Each a 4-byte little-endian length, then that many bytes."""
    found: list[bytes] = []
    offset = 0
    while offset + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4 + length
        found.append(bytes(data[offset - length : offset]))
    if offset != len(data) or len(found) != count:
        raise Malformed(f"output {name[:80]!r} has other strings than its shape and size say")
    return found


def _objects(values: list[bytes]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _to_bf16(wide: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    bits = wide.astype("<f4").view("<u4")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return np.where(np.isnan(wide), 0x7FC0, rounded >> 16).astype(np.uint16)


def _widen(bf16: Array) -> Array:
    with np.errstate(all="ignore"):
        return (bf16.astype("<u4") << 16).view("<f4").astype(np.float64)


def flatten(data: Json) -> list[Json]:
    """The leaves of nested lists, in order; one value alone is a list of one.

    Raises:
        Malformed: A list holds lists and values.
    """
    if not isinstance(data, list):
        return [data]
    level: list[Json] = data
    while any(isinstance(value, list) for value in level):
        if not all(isinstance(value, list) for value in level):
            raise Malformed("the data mix lists and values")
        level = [value for inner in level for value in inner]
    return level


def compare(
    primary: dict[str, Tensor], shadow: dict[str, Tensor], how: Comparison, findings: Findings
) -> None:
    """Compare the tensors of two responses by their names.

    Raises:
        Malformed: A path of ``how`` names no output of either.
    """
    for name in dict.fromkeys([*primary, *shadow]):
        if not how.wanted(name):
            continue
        a, b = primary.get(name), shadow.get(name)
        if a is None or b is None:
            findings.differ(name, "missing" if a is None else "there", "missing" if b is None else "there")
        else:
            compare_tensors(name, a, b, how, findings)
    for name in how.paths:
        if name not in primary and name not in shadow:
            raise Malformed(f"neither response has an output {name[:80]!r}")


def compare_tensors(name: str, a: Tensor, b: Tensor, how: Comparison, findings: Findings) -> None:
    """Exact for integers, booleans and strings, within the tolerance for floats, by argmax for scores."""
    if a.kind != b.kind or a.shape != b.shape:
        findings.differ(name, f"{a.kind} {list(a.shape)}", f"{b.kind} {list(b.shape)}")
        return
    if np.array_equal(a.values, b.values):  # as nearly always, in a seventh of the time
        if a.kind == "float" and a.values.size:
            findings.distance(0.0)
    elif a.kind == "float":
        _compare_floats(name, a, b, how, findings)
    elif _is_ranking(name, a, how) and a.kind == "int":
        _compare_places(name, a, b, findings)
    else:
        _report(name, a.values != b.values, a.values, b.values, findings)


def _compare_floats(name: str, a: Tensor, b: Tensor, how: Comparison, findings: Findings) -> None:
    x, y = a.values, b.values
    with np.errstate(all="ignore"):
        distance = np.abs(x - y)
        allowed = how.tolerance * np.maximum(1.0, np.maximum(np.abs(x), np.abs(y)))
        same = (x == y) | (np.isnan(x) & np.isnan(y)) | (np.isfinite(distance) & (distance <= allowed))
    finite = distance[np.isfinite(distance)]
    findings.distance(float(finite.max()) if finite.size else 0.0)
    if _is_ranking(name, a, how):
        _compare_places(name, a, b, findings)
    else:
        _report(name, ~same, x, y, findings)


def _is_ranking(name: str, tensor: Tensor, how: Comparison) -> bool:
    """Whether the place of the largest number says something: of a single number it is always the same."""
    return how.ranked(name) and bool(tensor.shape) and tensor.shape[-1] > 1


def _compare_places(name: str, a: Tensor, b: Tensor, findings: Findings) -> None:
    width = a.shape[-1]
    if not a.values.size:
        return
    x, y = (_places(t.values.reshape(-1, width)) for t in (a, b))
    _report(f"argmax of {name}", x != y, x, y, findings)


def _places(rows: Array) -> npt.NDArray[np.intp]:
    """Where the largest number of each row (n, width) is; (n,). Below 0 where a NaN is among them."""
    found: npt.NDArray[np.intp] = np.argmax(rows, axis=1)
    if rows.dtype.kind == "f":
        # `argmax` gives the first NaN's place: a model gone to NaN would agree wherever class 0 is right.
        broken = np.isnan(rows).any(axis=1)
        found[broken] = -1 - found[broken]
    return found


def _report(name: str, differ: Any, a: Array, b: Array, findings: Findings) -> None:
    places = np.flatnonzero(differ)
    for place in places[:8]:
        findings.differ(f"{name}[{place}]", _python(a[place]), _python(b[place]))
    findings.count += max(0, places.size - 8)


def _python(value: Any) -> object:
    return value.item() if isinstance(value, np.generic) else value
