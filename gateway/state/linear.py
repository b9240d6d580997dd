"""Sums for linear regression from which what was added can be taken away again without a trace.

Entries of rows are multiples of 1 / 4096, so the sums of their products are exact as they are (up to half a
billion rows in one cell); sums with rewards in them are expansions, as in `gateway.state.exact`.

A cell as the stores keep it, which `gateway/state/redis/lua/shared/linear.lua` reads and writes too:

    8   count
    1   d, columns of a row
    8   for each pair i <= j < d, by i and then j: Σ x_i x_j
    then d + 1 times, for Σ r x_i and last Σ r²: a byte with the number of parts, and 8 for each
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gateway.record.context import Context
from gateway.state.exact import Expansion
from policies.contextual.regression import LinearSums

_HEAD: Final = struct.Struct("<qB")


@dataclass(slots=True)
class ExactLinear:
    """`LinearSums` that can be subtracted from."""

    width: int
    count: int = 0
    products: list[float] = field(default_factory=list)
    """The upper triangle of Σ x xᵀ, row by row."""
    rewards: list[Expansion] = field(default_factory=list)
    """Σ r x_i for each i, then Σ r²."""

    def __post_init__(self) -> None:
        if not self.products:
            self.products = [0.0] * (self.width * (self.width + 1) // 2)
            self.rewards = [Expansion() for _ in range(self.width + 1)]

    def report(self, row: Context, value: float) -> None:
        self._add(row, value, 1)

    def retract(self, row: Context, value: float) -> None:
        self._add(row, value, -1)

    def _add(self, row: Context, value: float, sign: int) -> None:
        self.count += sign
        entries = row.entries
        for at, (i, x) in enumerate(entries):
            start = i * self.width - i * (i - 1) // 2 - i
            for j, y in entries[at:]:
                self.products[start + j] += sign * (x * y)
            self.rewards[i].add(sign * (value * x))
        self.rewards[-1].add(sign * (value * value))

    def merge(self, other: ExactLinear, sign: int = 1) -> None:
        """Adds ``other``, or takes it away."""
        self.count += sign * other.count
        for k, product in enumerate(other.products):
            self.products[k] += sign * product
        for mine, theirs in zip(self.rewards, other.rewards, strict=True):
            for part in theirs.parts:
                mine.add(sign * part)

    def pack(self) -> bytes:
        parts = [_HEAD.pack(self.count, self.width), struct.pack(f"<{len(self.products)}d", *self.products)]
        parts += (struct.pack(f"<B{len(s.parts)}d", len(s.parts), *s.parts) for s in self.rewards)
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> ExactLinear:
        count, width = _HEAD.unpack_from(data)
        number = width * (width + 1) // 2
        products = list(struct.unpack_from(f"<{number}d", data, _HEAD.size))
        at = _HEAD.size + 8 * number
        rewards = []
        for _ in range(width + 1):
            parts = struct.unpack_from(f"<{data[at]}d", data, at + 1)
            at += 1 + 8 * len(parts)
            rewards.append(Expansion(list(parts)))
        return cls(width, count, products, rewards)

    @property
    def rounded(self) -> LinearSums:
        xx = np.zeros((self.width, self.width))
        upper = np.triu_indices(self.width)
        xx[upper] = self.products
        xx.T[upper] = self.products
        figures = [sums.rounded for sums in self.rewards]
        return LinearSums(float(self.count), xx, np.array(figures[:-1]), figures[-1])


def summed(cells: Iterable[bytes]) -> LinearSums:
    """The sum of one cell or more, all of one width."""
    each: Sequence[ExactLinear] = [ExactLinear.unpack(cell) for cell in cells]
    total = ExactLinear(each[0].width)
    for one in each:
        total.merge(one)
    return total.rounded
