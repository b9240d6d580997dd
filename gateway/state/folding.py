"""How old aggregates become coarser. Pure; for every store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LADDER: Final = ((2 * 3600, 60), (2 * 86_400, 3600), (90 * 86_400, 86_400))
"""From which age on (seconds) how wide (seconds) the buckets of the aggregates are."""
LINEAR_LADDER: Final = ((2 * 3600, 3600), (2 * 86_400, 86_400))
"""`LADDER` of sums over rows of features, which are wide and read by half-life only."""
PAGE_AGE_S: Final = 3600
"""Pages of hours that ended this many seconds ago are merged into full, compressed ones."""


def merged_epochs(inside: Iterable[int], before: int | None, after: int | None) -> dict[int, int]:
    """From each epoch inside a coarse bucket to the one that it is counted under.

    ``before`` is the last epoch of the bucket before, ``after`` the first of the one behind. Epochs
    follow one another, so only the first and the last inside can reach beyond: these stay (the last one
    also while nothing follows, for it may go on); the others become the last of them.
    """
    all_inside = set(inside)
    kept = {
        epoch
        for epoch in all_inside
        if (before is not None and epoch <= before) or after is None or epoch >= after
    }
    short = all_inside - kept
    return {epoch: epoch if epoch in kept else max(short) for epoch in all_inside}
