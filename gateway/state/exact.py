"""Sums of floats from which what was added can be taken away again without a trace.

Plain floating-point sums forget: 1e18 + 1 - 1e18 is 0. A sum here is an expansion, a list of floats
whose exact sum is meant (Shewchuk 1997, "Adaptive Precision Floating-Point Arithmetic"; Python's
`math.fsum` is the same idea), so that reports, corrections and retractions in any order end in the
same figure. Nearly always one float is enough; the rest is kept with it only when it is not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import fsum
from typing import Final

from policies.types import RewardSums

_HEAD: Final = struct.Struct("<qHH")
"""count, then how many doubles the exact total and the exact squares have; these follow."""


@dataclass(slots=True)
class Expansion:
    """An exact sum; ``parts`` do not overlap and have the smallest first."""

    parts: list[float] = field(default_factory=list)

    def add(self, x: float) -> None:
        """Adds a finite float, exactly."""
        kept = 0
        for y in self.parts:
            if abs(x) < abs(y):
                x, y = y, x
            high = x + y
            low = y - (high - x)
            if low:
                self.parts[kept] = low
                kept += 1
            x = high
        self.parts[kept:] = [x] if x else []

    @property
    def rounded(self) -> float:
        """The float nearest to the exact sum."""
        return fsum(self.parts)

    def split(self) -> tuple[float, bytes | None]:
        """`rounded`, and what the exact sum has in addition, as packed doubles (None: nothing)."""
        rounded = self.rounded
        if self.parts in ([], [rounded]):
            return rounded, None
        rest = Expansion(list(self.parts))
        rest.add(-rounded)
        return rounded, struct.pack(f"<{len(rest.parts)}d", *rest.parts) if rest.parts else None

    @classmethod
    def joined(cls, rounded: float, rest: bytes | None) -> Expansion:
        """What `split` took apart."""
        made = cls(list(struct.unpack(f"<{len(rest) // 8}d", rest)) if rest else [])
        made.add(rounded)
        return made


@dataclass(slots=True)
class ExactSums:
    """`RewardSums` that can be subtracted from."""

    count: int = 0
    total: Expansion = field(default_factory=Expansion)
    squares: Expansion = field(default_factory=Expansion)

    @classmethod
    def of_booleans(cls, count: int, true: int) -> ExactSums:
        """The sums of ``count`` values, ``true`` of which are 1 and the others 0."""
        parts = [float(true)] if true else []
        return cls(count, Expansion(parts), Expansion([*parts]))

    def report(self, value: float) -> None:
        self.count += 1
        self.total.add(value)
        self.squares.add(value * value)

    def retract(self, value: float) -> None:
        self.count -= 1
        self.total.add(-value)
        self.squares.add(-(value * value))

    def merge(self, other: ExactSums, sign: int = 1) -> None:
        """Adds the other; with -1 takes it away."""
        self.count += sign * other.count
        for mine, theirs in ((self.total, other.total), (self.squares, other.squares)):
            for part in theirs.parts:
                mine.add(sign * part)

    @property
    def rounded(self) -> RewardSums:
        return RewardSums(self.count, self.total.rounded, self.squares.rounded)

    def pack(self) -> bytes:
        """As stores keep it: `gateway/state/redis/lua/shared/sums.lua` reads and writes the same."""
        parts = [*self.total.parts, *self.squares.parts]
        head = _HEAD.pack(self.count, len(self.total.parts), len(self.squares.parts))
        return head + struct.pack(f"<{len(parts)}d", *parts)

    @classmethod
    def unpack(cls, data: bytes) -> ExactSums:
        """What `pack` made. Raises struct.error for anything else."""
        count, totals, squares = _HEAD.unpack_from(data)
        parts = struct.unpack(f"<{totals + squares}d", data[_HEAD.size :])
        return cls(count, Expansion(list(parts[:totals])), Expansion(list(parts[totals:])))
