"""The bytes that Redis keeps, where a Lua script and Python must read the same."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from gateway.record.events import Reward, Shadowed
from gateway.record.histogram import pack, unpack
from gateway.state import shapes
from gateway.state.base import Counts, Event, Published, Revision

_COUNTS: Final = struct.Struct("<qqqqdI")
"""assigned, served, errors, fallbacks, expected, bytes of the latency histogram; both histograms follow.

If the highest bit of the bytes is set, the number of unseen ones comes first (u64)."""
_WITH_UNSEEN: Final = 1 << 31
_UNSEEN: Final = struct.Struct("<q")
_REWARD: Final = struct.Struct("<BdBdd")
"""Has it a value, the value; does it count, as what; its time. The whole reward follows as JSON.

Of a sticky unit the first byte is 2 more, and between the two stand u16 length and text of the period, and
the time of the decision as a double."""
_STICKY: Final = 2


# Aggregates ---------------------------------------------------------------------------------------
def cell_field(epoch: int, variant: str, metric: str | None = None) -> bytes:
    """The name of a cell within its bucket; with an ``epoch`` of -1, of a total."""
    return f"{epoch}:{variant}".encode() + (b"" if metric is None else b"\0" + metric.encode())


def cell_parts(field: bytes) -> tuple[int, str, str]:
    """Epoch, variant and metric ("" where there is none)."""
    epoch, _, rest = field.partition(b":")
    variant, _, metric = rest.partition(b"\0")
    return int(epoch), variant.decode(), metric.decode()


def linear_field(variant: str, metric: str, fingerprint: str) -> bytes:
    """The name of a cell of sums over rows of features within its bucket."""
    return f"{variant}\0{metric}\0{fingerprint}".encode()


def linear_parts(field: bytes) -> tuple[str, str, str]:
    """Variant, metric and fingerprint."""
    variant, metric, fingerprint = field.decode().split("\0")
    return variant, metric, fingerprint


def pack_counts(counts: Counts) -> bytes:
    latency = pack(counts.latency)
    numbers = (counts.assigned, counts.served, counts.errors, counts.fallbacks, counts.expected)
    unseen = _UNSEEN.pack(counts.unseen) if counts.unseen else b""
    length = len(latency) + (_WITH_UNSEEN if unseen else 0)
    return _COUNTS.pack(*numbers, length) + unseen + latency + pack(counts.gateway)


def unpack_counts(cells: Sequence[bytes]) -> Counts:
    """The sum of any number of cells."""
    total = Counts()
    latency, gateway = [], []
    for cell in cells:
        assigned, served, errors, fallbacks, expected, length, at, unseen = _head(cell)
        total.assigned += assigned
        total.served += served
        total.errors += errors
        total.fallbacks += fallbacks
        total.expected += expected
        total.unseen += unseen
        latency.append(cell[at : at + length])
        gateway.append(cell[at + length :])
    total.latency, total.gateway = unpack(*latency), unpack(*gateway)
    return total


def unpack_shares(cell: bytes) -> tuple[int, float]:
    """Assigned and expected of a cell of counts."""
    assigned, _, _, _, expected, *_ = _head(cell)
    return assigned, expected


def unpack_decided(cell: bytes) -> tuple[int, int, int]:
    """Assigned, those whose response was seen, and errors of a cell of counts."""
    assigned, _, errors, _, _, _, _, unseen = _head(cell)
    return assigned, assigned - unseen, errors


def _head(cell: bytes) -> tuple[int, int, int, int, float, int, int, int]:
    """The numbers of a cell of counts; the last two are where its latency histogram begins, and the unseen ones."""
    *numbers, length = _COUNTS.unpack_from(cell)
    if not length & _WITH_UNSEEN:
        return (*numbers, length, _COUNTS.size, 0)
    (unseen,) = _UNSEEN.unpack_from(cell, _COUNTS.size)
    return (*numbers, length - _WITH_UNSEEN, _COUNTS.size + _UNSEEN.size, unseen)


# Rows ---------------------------------------------------------------------------------------------
def pack_reward(reward: Reward, counted: float | None) -> bytes:
    period = reward.period.encode()
    flags = (reward.value is not None) + (_STICKY if period else 0)
    head = _REWARD.pack(flags, reward.value or 0.0, counted is not None, counted or 0.0, reward.time)
    if period:
        head += struct.pack(f"<H{len(period)}sd", len(period), period, reward.decided)
    return head + _json([reward.decision.hex(), *reward[1:]])


def unpack_reward(row: bytes) -> Reward:
    at = _REWARD.size
    if row[0] >= _STICKY:
        at += 2 + struct.unpack_from("<H", row, at)[0] + 8
    decision, *rest = json.loads(row[at:])
    return Reward(bytes.fromhex(decision), *rest[: len(Reward._fields) - 1])


def pack_shadowed(shadowed: Shadowed) -> bytes:
    return _json([shadowed.decision.hex(), *shadowed[1:]])


def unpack_shadowed(row: bytes) -> Shadowed:
    decision, *rest = json.loads(row)
    return Shadowed(bytes.fromhex(decision), *rest[: len(Shadowed._fields) - 1])


def pack_published(allocation: Published) -> bytes:
    return _json(asdict(allocation) | {"probabilities": dict(allocation.probabilities)})


def unpack_published(row: bytes) -> Published:
    return shapes.published_of(shapes.read(row, object))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Documents, revisions and events -------------------------------------------------------------------
def revision_row(of: Revision) -> list[Any]:
    """A revision without its number."""
    return [of.time, of.author, of.etag, of.document, of.origin]


def revision_entry(row: list[Any]) -> list[Any]:
    """A row without the text. Rows of earlier releases may lack the origin."""
    time, author, etag, _, *origin = row
    return [time, author, etag, *origin]


def revision_columns(number: int, row: bytes) -> list[Any]:
    """The columns of a revision, at least ``number``: a time, then texts, last the origin. Raises ValueError."""
    found: list[Any] = shapes.read(row, [object])[: number + 1]
    if not (len(found) >= number and shapes.time(found[0]) and shapes.fits(found[1:], [str])):
        raise ValueError("its JSON has the wrong shape")
    return found


def stored_document(kind: str, known: tuple[int, str] | None, row: bytes) -> tuple[int, str]:
    """Version and text, whose JSON has the shape of its kind, as it has if ``known``. Raises ValueError."""
    version, _, text = row.decode().partition("\n")
    found = int(version), text
    if found != known:
        shapes.check_document(kind, text)
    return found


def document_field(kind: str, name: str) -> str:
    return f"{kind}\0{name}"


def stored_event(number: bytes, fields: Any) -> Event:
    given = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    text = {key: value.decode(errors="replace") for key, value in given.items()}
    kind, route, data = (text.get(name, "") for name in (b"kind", b"route", b"data"))
    return Event(int(number.split(b"-")[0]), shapes.event_time(text.get(b"time")), kind, route, data)
