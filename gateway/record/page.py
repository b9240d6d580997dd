"""Pages: many outcomes encoded as one compact block of bytes, column by column.

A page costs the store one row: 1 µs and 80 bytes per outcome, where a row for each outcome costs 8 µs and 180
bytes. The format does not depend on a Python version or another program:

    4 bytes   b"TPG1"; or b"TPZ1", then what follows is compressed with zlib
    u32       number of rows
    u16       number of columns, in the order of `Outcome`; later releases may only append columns,
              and earlier ones skip those that they don't know: replicas of both share a store during an upgrade
    columns   each: u8 kind, u32 length, data; all numbers little-endian

Kinds: ``r`` sixteen raw bytes per row; ``d B H I Q b h i q`` numbers as in `array`, a single one if all rows have
the same; ``t`` text: a u32 length in characters for each row, then UTF-8; ``=`` one text that all rows have; ``m``
u32 number of texts, these as in ``t``, then a u8 (up to 256 texts) or u16 index for each row.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, Final

from gateway.record.events import Outcome, columns, same

_PLAIN_MAGIC: Final = b"TPG1"
_COMPRESSED_MAGIC: Final = b"TPZ1"
_HEAD: Final = struct.Struct("<IH")
_COLUMN: Final = struct.Struct("<cI")
_UNSIGNED: Final = ((1 << 8, "B"), (1 << 16, "H"), (1 << 32, "I"), (1 << 64, "Q"))

Column = tuple[bytes, bytes]
"""Kind and data."""


class BadPage(ValueError):
    """Bytes that are not a page, or a page of a later format."""


class DamagedPage(BadPage):
    """A page that was written whole, and is no more. ``place``: where its store keeps it."""

    def __init__(self, message: str, place: object) -> None:
        super().__init__(message)
        self.place = place


def encode(outcomes: Sequence[Outcome], *, compress: bool = False) -> bytes:
    """Encode at least one outcome as a page, in the order given."""
    return encode_columns(columns(outcomes), compress=compress)


def encode_columns(by_column: Sequence[Sequence[Any]], *, compress: bool = False) -> bytes:
    """Encode columns as made by `gateway.record.events.columns`."""
    encoded: list[Column] = []
    before: Any = None
    for name, values in zip(_NAMES, by_column, strict=True):
        # `served` mostly equals `assigned`, the column before: its encoding is used again.
        alike = _ENCODERS[name] is _names and values == before
        encoded.append(encoded[-1] if alike else _ENCODERS[name](values))
        before = values
    parts = [_HEAD.pack(len(by_column[0]), len(encoded))]
    for kind, data in encoded:
        parts += (_COLUMN.pack(kind, len(data)), data)
    body = b"".join(parts)
    return _COMPRESSED_MAGIC + zlib.compress(body, 6) if compress else _PLAIN_MAGIC + body


def decode(page: bytes, place: object = None) -> list[Outcome]:
    """Return the outcomes of a page. Raises DamagedPage with the ``place``; BadPage for a later format."""
    with _damage_at(place):
        return list(map(Outcome._make, zip(*_columns(_body(page)), strict=True)))


def columns_of(page: bytes, names: Collection[str], place: object = None) -> dict[str, Sequence[Any]]:
    """Return the columns ``names`` of a page, in a fraction of the time that all take; raises as `decode`."""
    with _damage_at(place):
        wanted = frozenset(names)
        each = zip(_NAMES, _columns(_body(page), wanted), strict=True)
        return {name: values for name, values in each if name in wanted}


@contextmanager
def _damage_at(place: object) -> Iterator[None]:
    try:
        yield
    except BadPage:
        raise
    except (struct.error, zlib.error, ValueError, LookupError) as error:
        raise DamagedPage(f"a page of the record is damaged: {error}", place) from error


def _body(page: bytes) -> bytes:
    if page[:4] == _PLAIN_MAGIC:
        return page[4:]
    if page[:4] == _COMPRESSED_MAGIC:
        return zlib.decompress(page[4:])
    if page[:2] == _PLAIN_MAGIC[:2]:
        raise BadPage(f"a page of the record begins with {page[:4]!r}; a later release may have written it")
    raise ValueError(f"it begins with {page[:4]!r}")


def _columns(body: bytes, wanted: Collection[str] | None = None) -> Iterator[Sequence[Any]]:
    """The columns in order; empty ones for those that are not ``wanted``."""
    rows, number = _HEAD.unpack_from(body)
    at = _HEAD.size
    if 16 * rows > len(body):
        raise ValueError(f"it is too short for {rows} rows")
    for name in _NAMES[:number]:
        kind, length = _COLUMN.unpack_from(body, at)
        at += _COLUMN.size
        if wanted is not None and name not in wanted:
            yield ()
            at += length
            continue
        if kind in _KNOWN_KINDS and kind not in _KINDS[name]:
            raise ValueError(f"its column {name!r} has the kind {kind!r}")
        data = body[at : at + length]
        values = _read(kind.decode("ascii"), data, rows)
        if len(data) != length or len(values) != rows:
            raise ValueError(f"its column {name!r} has another length")
        yield list(map(bool, values)) if name in _BOOLEANS else values
        at += length
    for name in _NAMES[number:]:
        yield [Outcome._field_defaults[name]] * rows


# Writing ------------------------------------------------------------------------------------------
def _raw(values: Sequence[bytes]) -> Column:
    return b"r", b"".join(values)


def _packed(code: str, values: Sequence[Any]) -> Column:
    numbers = array(code, values[:1] if same(values) else values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return code.encode("ascii"), numbers.tobytes()


def _floats(values: Sequence[float]) -> Column:
    return _packed("d", values)


def _integers(values: Sequence[int]) -> Column:
    span = values[:1] if same(values) else values
    if min(span) < 0:
        return _packed("q", values)
    top = max(span)
    return _packed(next((code for limit, code in _UNSIGNED if top < limit), "Q"), values)


def _units(values: Sequence[int]) -> Column:
    return _packed("Q", values)


def _text(values: Sequence[str]) -> bytes:
    lengths = array("I", map(len, values))
    if sys.byteorder == "big":
        lengths.byteswap()
    return lengths.tobytes() + "".join(values).encode("utf-8", "surrogatepass")


def _own_text(values: Sequence[str]) -> Column:
    return b"t", _text(values)


def _names(values: Sequence[str]) -> Column:
    """Encode texts of which many are equal."""
    if same(values):
        return b"=", values[0].encode("utf-8", "surrogatepass")
    places = {text: place for place, text in enumerate(dict.fromkeys(values))}
    if len(places) > 0xFFFF or len(places) * 2 > len(values):
        return b"t", _text(values)
    table = _text(tuple(places))
    head = struct.pack("<II", len(places), len(table)) + table
    if len(places) <= 256:
        return b"m", head + bytes(map(places.__getitem__, values))
    indices = array("H", map(places.__getitem__, values))
    if sys.byteorder == "big":
        indices.byteswap()
    return b"m", head + indices.tobytes()


# Reading ------------------------------------------------------------------------------------------
def _read(kind: str, data: bytes, rows: int) -> Sequence[Any]:
    if kind == "r":
        return [data[at : at + 16] for at in range(0, 16 * rows, 16)]
    if kind == "=":
        return [data.decode("utf-8", "surrogatepass")] * rows
    if kind == "t":
        return _read_text(data, rows)
    if kind == "m":
        return _read_names(data, rows)
    numbers = _array(kind, data)
    return numbers * rows if len(numbers) == 1 else numbers


def _array(code: str, data: bytes) -> list[Any]:
    if code not in "dBHIQbhiq":
        raise BadPage(f"a page of the record has a column of the unknown kind {code!r}")
    numbers = array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _read_text(data: bytes, rows: int) -> list[str]:
    ends = list(accumulate(_array("I", data[: 4 * rows]), initial=0))
    text = data[4 * rows :].decode("utf-8", "surrogatepass")
    return [text[start:end] for start, end in pairwise(ends)]


def _read_names(data: bytes, rows: int) -> list[str]:
    number, length = struct.unpack_from("<II", data)
    names = _read_text(data[8 : 8 + length], number)
    indices = _array("B" if number <= 256 else "H", data[8 + length :])
    return [names[i] for i in indices]


_NAMES: Final = Outcome._fields
_BOOLEANS: Final = frozenset({"sticky", "forced", "fallback"})
_FLOATS: Final = frozenset({"time", "propensity", "gateway_ms", "backend_ms", "total_ms"})
_INTEGERS: Final = (
    frozenset({"revision", "epoch", "unit", "status", "request_bytes", "answer_bytes"}) | _BOOLEANS
)
_TEXT_KINDS: Final = b"=tm"
_INTEGER_KINDS: Final = b"BHIQbhiq"
_KNOWN_KINDS: Final = b"rd" + _INTEGER_KINDS + _TEXT_KINDS
_KINDS: Final = {
    name: b"d" if name in _FLOATS else _INTEGER_KINDS if name in _INTEGERS else _TEXT_KINDS for name in _NAMES
} | {"decision": b"r", "unit": b"Q"}
_ENCODERS: Final[dict[str, Callable[[Sequence[Any]], Column]]] = {
    name: _floats if name in _FLOATS else _integers if name in _INTEGERS else _names for name in _NAMES
} | {"decision": _raw, "unit": _units, "request_id": _own_text, "backend_request_id": _own_text}
