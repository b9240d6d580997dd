"""From a unit to a point of [0, 1), and from probabilities to the ranges that own the points.

All ranges lie on a grid of 2**53 equal cells, the same that `point` draws from. So their lengths
are whole numbers: nothing drifts however often an allocation is changed, the last bound is exactly
1.0, and the probability that a decision records is the probability with which it was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import fsum, isfinite
from struct import unpack

from policies.allocation.model import Allocation

CELLS = 1 << 53
"""Cells of the grid; every float k / CELLS in [0, 1] is exact."""

SEGMENTS = 64
"""More segments than this (or than four for each variant) and the ranges are laid out from the beginning."""

_MASK = (1 << 64) - 1
_KEY = 64  # the longest key that blake2b takes, in bytes


def unit_hash(salt: bytes, unit: bytes) -> int:
    """64 bits that depend on every bit of both, alike in every process and on every machine.

    ``salt`` keeps the routes apart: a unit that is early in one is anywhere in another.
    """
    return hashed(keyed(salt), unit)


def hashed(begun: blake2b, unit: bytes) -> int:
    """`unit_hash` with the salt that ``begun`` is `keyed` with."""
    state = begun.copy()
    state.update(unit)
    return int.from_bytes(state.digest(), "little")


def unit_hashes(salt: bytes, units: Sequence[bytes]) -> tuple[int, ...]:
    """`unit_hash` of each, at two thirds of its cost."""
    copy, digests = keyed(salt).copy, []
    for unit in units:
        state = copy()
        state.update(unit)
        digests.append(state.digest())
    return unpack(f"<{len(units)}Q", b"".join(digests))


@lru_cache(maxsize=1024)
def keyed(salt: bytes) -> blake2b:
    """The hash before its first byte; never changed. A route has one salt, and a new hash costs as much as the unit."""
    key = salt if len(salt) <= _KEY else blake2b(salt).digest()
    return blake2b(digest_size=8, key=key)


def point(h: int) -> float:
    """The upper 53 bits of the 64-bit hash ``h`` as a float in [0, 1)."""
    return (h >> 11) * 2.0**-53


UNMOVED = (1, 0)
"""The placement with which every hash lies at its own point."""


def placement_of(salt: bytes) -> tuple[int, int]:
    """The multiplier, which is odd, and the offset of `placed`, 64 bits each."""
    digest = blake2b(salt, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little") | 1, int.from_bytes(digest[8:], "little")


def placed(h: int, placement: tuple[int, int]) -> float:
    """The point of the unit with the hash ``h`` under a placement.

    Multiplicative hashing: an odd multiplier permutes the 64-bit numbers, and its upper bits depend on all bits of
    ``h``. As ``h`` is a hash itself, points under different placements are independent of one another and of ``h``,
    unless the multipliers are in a ratio of small numbers (modulo 2^64).
    """
    multiplier, offset = placement
    return point((h * multiplier + offset) & _MASK)


def allocation(
    probabilities: Mapping[str, float],
    *,
    anchor: Sequence[str] | None = None,
    previous: Allocation | None = None,
    shadows: Mapping[str, float] | Sequence[tuple[str, float]] = (),
) -> Allocation:
    """Ranges of [0, 1) whose lengths are ``probabilities``.

    Without ``previous`` each variant owns one range, in the order of ``anchor`` (the variants not
    named there follow in the order of ``probabilities``): the canonical layout, in which the first
    variant owns [0, w) whatever w is. With ``previous``, ranges that must shrink give up pieces and
    ranges that must grow take exactly those, so that no more units move than the change of the
    probabilities asks for, and none moves from a variant whose share grows. If that would leave
    more than ``SEGMENTS`` pieces, the canonical layout is taken instead.

    The same arguments give the same ranges everywhere. A probability below 2**-54 is zero, and a
    zero owns nothing. Raises ValueError unless the probabilities are finite, not negative and sum
    to 1 within 1e-9.
    """
    variants = tuple(probabilities)
    lengths = _cells(probabilities)
    order = _order(variants, anchor)
    segments = _canonical(lengths, order)
    if previous is not None:
        moved = _moved(_segments_of(previous, variants), lengths)
        segments = moved if len(moved) <= max(SEGMENTS, 4 * len(variants)) else segments
    ran = tuple(shadows.items()) if isinstance(shadows, Mapping) else tuple(shadows)
    return Allocation(
        variants=variants,
        probabilities=tuple(_shown(p, n) for p, n in zip(probabilities.values(), lengths, strict=True)),
        bounds=tuple(end / CELLS for _, end, _ in segments),
        owners=tuple(owner for _, _, owner in segments),
        shadows=ran,
    )


def _cells(probabilities: Mapping[str, float]) -> list[int]:
    """Whole cells that sum to CELLS, by largest remainder."""
    values = list(probabilities.values())
    total = fsum(values) if all(isfinite(p) and p >= 0 for p in values) else float("nan")
    if not abs(total - 1.0) <= 1e-9:
        given = ", ".join(f"{name}: {p!r}" for name, p in probabilities.items())
        raise ValueError(f"probabilities must not be negative and must sum to 1, not {{{given}}}")
    exact = [p * CELLS for p in values]
    cells = [int(e) for e in exact]
    by_remainder = sorted(range(len(cells)), key=lambda k: (cells[k] - exact[k], k))
    missing = CELLS - sum(cells)
    for k in by_remainder[: max(0, missing)]:
        if exact[k] > cells[k]:
            cells[k] += 1
            missing -= 1
    # What rounding leaves goes to the largest, where it changes the share least.
    cells[max(range(len(cells)), key=lambda k: (cells[k], -k))] += missing
    return cells


def _shown(asked: float, cells: int) -> float:
    """The probability as asked (0.1 stays 0.1) where the grid keeps 12 digits of it; else what it became."""
    exact = cells / CELLS
    return asked if abs(asked - exact) <= 1e-12 * asked else exact


def _order(variants: tuple[str, ...], anchor: Sequence[str] | None) -> list[int]:
    named = [] if anchor is None else [variants.index(name) for name in anchor if name in variants]
    return named + [k for k in range(len(variants)) if k not in set(named)]


Segment = tuple[int, int, int]
"""Start and end in cells, and the index of the owner; -1: free."""

_FREE = -1


def _canonical(lengths: Sequence[int], order: Sequence[int]) -> list[Segment]:
    segments, start = [], 0
    for owner in order:
        if lengths[owner]:
            segments.append((start, start + lengths[owner], owner))
            start += lengths[owner]
    return segments


def _segments_of(previous: Allocation, variants: tuple[str, ...]) -> list[Segment]:
    """The segments of ``previous`` in terms of ``variants``; those of a variant that is gone are free."""
    index = {name: k for k, name in enumerate(variants)}
    segments, start = [], 0
    for bound, owner in zip(previous.bounds, previous.owners, strict=True):
        end = round(bound * CELLS)
        segments.append((start, end, index.get(previous.variants[owner], _FREE)))
        start = end
    return segments


def _moved(segments: list[Segment], lengths: Sequence[int]) -> list[Segment]:
    """The nearest layout to ``segments`` with these lengths."""
    change = list(lengths)
    for start, end, owner in segments:
        if owner != _FREE:
            change[owner] -= end - start
    growing = {k for k, cells in enumerate(change) if cells > 0}
    for owner, cells in enumerate(change):
        if cells < 0:
            segments = _released(segments, owner, -cells, growing)
    need = {k: change[k] for k in growing}
    return _coalesced(_filled(_absorbed(_coalesced(segments), need), need))


def _released(segments: list[Segment], owner: int, cells: int, growing: set[int]) -> list[Segment]:
    """Frees ``cells`` of ``owner``: its smallest segments whole, then an end of the next one.

    Whole small segments go first because that keeps the number of segments down; an end that
    touches a variant that grows is preferred because that makes no new segment.
    """
    mine = sorted(
        (k for k, s in enumerate(segments) if s[2] == owner),
        key=lambda k: (segments[k][1] - segments[k][0], k),
    )
    out: dict[int, list[Segment]] = {}
    left = list(mine)
    for k in mine:
        start, end, _ = segments[k]
        if end - start > cells:
            break
        out[k] = [(start, end, _FREE)]
        cells -= end - start
        left.remove(k)
    if cells:
        k, at_start = _end_to_cut(segments, left, growing)
        start, end, _ = segments[k]
        cut = start + cells if at_start else end - cells
        halves = (_FREE, owner) if at_start else (owner, _FREE)
        out[k] = [(start, cut, halves[0]), (cut, end, halves[1])]
    return [piece for k, segment in enumerate(segments) for piece in out.get(k, [segment])]


def _end_to_cut(segments: list[Segment], left: list[int], growing: set[int]) -> tuple[int, bool]:
    """Which segment of ``left`` (ascending by length) gives up an end, and whether it is its start."""
    for k in left:
        if k + 1 < len(segments) and segments[k + 1][2] in growing:
            return k, False
        if k and segments[k - 1][2] in growing:
            return k, True
    return left[-1], False


def _absorbed(segments: list[Segment], need: dict[int, int]) -> list[Segment]:
    """Free segments go to a neighbour that grows, as far as it needs them."""
    out: list[Segment] = []
    for k, (start, end, owner) in enumerate(segments):
        if owner != _FREE:
            out.append((start, end, owner))
            continue
        before = segments[k - 1][2] if k else _FREE
        after = segments[k + 1][2] if k + 1 < len(segments) else _FREE
        low = start + _taken(need, before, end - start)
        high = end - _taken(need, after, end - low)
        out += [(start, low, before), (low, high, _FREE), (high, end, after)]
    return [s for s in out if s[0] < s[1]]


def _taken(need: dict[int, int], owner: int, cells: int) -> int:
    taken = min(need.get(owner, 0), cells)
    if taken:
        need[owner] -= taken
    return taken


def _filled(segments: list[Segment], need: dict[int, int]) -> list[Segment]:
    """What is still free goes to those that still need it, the neediest first."""
    waiting = sorted((k for k in need if need[k]), key=lambda k: (-need[k], k))
    out: list[Segment] = []
    for start, end, owner in segments:
        while owner == _FREE and start < end:
            cells = _taken(need, waiting[0], end - start)
            out.append((start, start + cells, waiting[0]))
            start += cells
            if not need[waiting[0]]:
                waiting.pop(0)
        if start < end:
            out.append((start, end, owner))
    return out


def _coalesced(segments: list[Segment]) -> list[Segment]:
    out: list[Segment] = []
    for start, end, owner in segments:
        if start == end:
            continue
        if out and out[-1][2] == owner:
            out[-1] = (out[-1][0], end, owner)
        else:
            out.append((start, end, owner))
    return out
