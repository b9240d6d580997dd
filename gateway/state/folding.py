"""How aggregates become coarser: old ones where they are stored, those of short epochs as they are read. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Final, Literal

from gateway.state.base import BUCKET_S

LADDER: Final = ((2 * 3600, 60), (2 * 86_400, 3600), (90 * 86_400, 86_400))
"""From which age on (seconds) how wide (seconds) the buckets of the aggregates are."""
LINEAR_LADDER: Final = ((2 * 3600, 3600), (2 * 86_400, 86_400))
"""`LADDER` of sums over rows of features, which are wide and read by half-life only."""
PAGE_AGE_S: Final = 3600
"""Pages of hours that ended this many seconds ago are merged into full, compressed ones."""


SHARE_STEPS: Final = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125, 0.0)
"""Steps per unit of the logarithm of the odds. At 2.0, shares in one step differ by a factor below 1.65."""
MAX_APART: Final = 16
"""Groups of epochs in one coarse bucket, each of which keeps its cells. With more, the next of `SHARE_STEPS` is tried:
ten variants that a bandit learns about have hundreds of combinations of shares in an hour at 2.0."""
READ_STEPS: Final = (20.0, 10.0, 5.0, *SHARE_STEPS)
"""Those with which epochs are read together: at 20, shares differ by at most 1.3 points."""
MIN_SHARE: Final = 1e-3
"""Shares closer to 0 or 1 are in the last step."""
Grouping = Literal["each", "alike", "together"]
"""How epochs in one bucket of time are read: each by itself, those of like shares together, or all together. A bandit
that has learned little has other shares each second: their mean over ten of them would confound its variants with
whatever else moved within these."""
Steps = frozenset[tuple[str, int]]
"""By variant, the step of its share."""
_NO_STEPS: Final[Mapping[int, Steps]] = {}


def cell_width(age: float) -> int:
    """Return how wide the buckets are (seconds) of what happened ``age`` seconds ago."""
    return max([int(BUCKET_S), *(width for limit, width in LADDER if age >= limit)])


def share_steps(
    cells: Iterable[tuple[int, str, float, float]], steps: Sequence[float] = SHARE_STEPS
) -> dict[int, Steps]:
    """Return the steps of each epoch's shares, from (epoch, variant, decisions assigned, decisions expected)."""
    decided: dict[int, float] = defaultdict(float)
    expected: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for epoch, variant, assigned, called_for in cells:
        decided[epoch] += assigned
        expected[epoch][variant] += called_for
    odds = {
        epoch: {v: _log_odds(e / decided[epoch]) for v, e in each.items() if e > 0}
        for epoch, each in expected.items()
        if decided[epoch] > 0
    }
    found: dict[int, Steps] = {}
    for fineness in steps:
        found = {
            epoch: frozenset((v, round(fineness * x)) for v, x in each.items())
            for epoch, each in odds.items()
        }
        if len(set(found.values())) <= MAX_APART:
            break
    return found


def _log_odds(share: float) -> float:
    # The odds of 0 and 1 are infinite.
    share = min(max(share, MIN_SHARE), 1 - MIN_SHARE)
    return log(share / (1 - share))


def merged_epochs(
    inside: Iterable[int], before: int | None, after: int | None, steps: Mapping[int, Steps] = _NO_STEPS
) -> dict[int, int]:
    """From each epoch inside a coarse bucket to the one that it is counted under.

    ``before`` is the last epoch of the bucket before, ``after`` the first of the one behind. Epochs
    follow one another, so only the first and the last inside can reach beyond: these stay (the last one
    also while nothing follows, for it may go on). The others become the last of those with shares as theirs: values of
    a bandit are compared by the shares of their epoch (`policies.sequential.design_based`), and a mean of shares that
    moved far would confound them with whatever else moved meanwhile. ``steps``: `share_steps`. An epoch without any
    has only rewards, which came after it had been merged: most likely into the one that follows it.
    """
    all_inside = set(inside)
    kept = {
        epoch
        for epoch in all_inside
        if (before is not None and epoch <= before) or after is None or epoch >= after
    }
    under, last = {epoch: epoch for epoch in kept}, dict[Steps, int]()
    following: Steps = frozenset()
    for epoch in sorted(all_inside - kept, reverse=True):
        following = steps.get(epoch, following)
        under[epoch] = last.setdefault(following, epoch)
    return under


def read_under(
    grouping: Grouping,
    cells: Iterable[tuple[int, int, str, float, float]],
    rewarded: Iterable[tuple[int, int]],
) -> dict[tuple[int, int], int]:
    """From the start and epoch of each cell to the epoch that it is read under.

    ``cells``: (start, epoch, variant, decisions assigned, decisions expected); ``rewarded``: (start, epoch) of sums of
    rewards. What came for an epoch after it was folded is read with what follows it, as `merged_epochs` will.
    """
    inside: dict[int, dict[int, list[tuple[int, str, float, float]]]] = defaultdict(dict)
    for start, epoch, variant, assigned, expected in cells:
        inside[start].setdefault(epoch, []).append((epoch, variant, assigned, expected))
    for start, epoch in rewarded:
        inside[start].setdefault(epoch, [])
    found: dict[tuple[int, int], int] = {}
    for start, epochs in inside.items():
        under: Mapping[int, int] = {epoch: epoch for epoch in epochs}
        if grouping == "together":
            under = dict.fromkeys(epochs, max(epochs))
        elif grouping == "alike" and len(epochs) > 1:
            steps = share_steps((cell for each in epochs.values() for cell in each), READ_STEPS)
            under = merged_epochs(epochs, None, max(epochs) + 1, steps)
        for epoch, name in under.items():
            found[start, epoch] = name
    return found
