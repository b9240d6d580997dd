"""An allocation in whole parts of 10^9, the form in which it is handed to other data planes.

Proxies weigh with integers. Ranges are handed over as they are, segment by segment, so a proxy that takes a
number of [0, 10^9) and walks the segments in order decides as `Allocation.pick` does, and a ramp moves no unit back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from policies.allocation.model import Allocation

PARTS: Final = 10**9
"""Parts of the whole. It never changes: a proxy takes a 64-bit number modulo this total, so that another total
would move every unit."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The segments of an allocation, ascending."""

    variants: tuple[str, ...]
    segments: tuple[tuple[str, int], ...]
    """(variant, parts); the parts sum to PARTS."""

    @property
    def propensities(self) -> dict[str, float]:
        """The exact probability of each variant; it differs from the allocation's by at most 10^-9 a segment."""
        return {variant: parts / PARTS for variant, parts in self._owned.items()}

    @property
    def merged(self) -> Cells:
        """The same probabilities with one segment for each variant; units move."""
        return Cells(
            self.variants, tuple((variant, parts) for variant, parts in self._owned.items() if parts)
        )

    @property
    def _owned(self) -> dict[str, int]:
        owned = dict.fromkeys(self.variants, 0)
        for variant, parts in self.segments:
            owned[variant] += parts
        return owned

    def pick(self, part: int) -> str:
        """The variant that owns ``part`` of [0, PARTS).

        Raises:
            ValueError: ``part`` is `PARTS` or more.
        """
        for variant, parts in self.segments:
            part -= parts
            if part < 0:
                return variant
        raise ValueError(f"a part is below {PARTS}")


def cells(allocation: Allocation) -> Cells:
    """The ranges of ``allocation`` with each bound rounded to the nearest part.

    Rounding bounds and not lengths keeps the sum, and keeps a range that only grows growing. A segment that is
    shorter than half a part may vanish: its variant then gets no requests, and its propensity says so.
    """
    segments: list[tuple[str, int]] = []
    start = 0
    for bound, owner in zip(allocation.bounds, allocation.owners, strict=True):
        end = round(bound * PARTS)
        if end > start:
            segments.append((allocation.variants[owner], end - start))
            start = end
    return Cells(allocation.variants, tuple(segments))
