"""Statistics that production does without, against which those that it uses are checked."""

from __future__ import annotations

from typing import Final

import numpy as np

from policies.sequential.mixtures import Floats
from policies.sequential.two_sample import MeanMartingale

EDGE: Final = 1e-12
POINTS: Final = 17
ZOOMS: Final = 4


def evidence_against(
    baseline: MeanMartingale, candidate: MeanMartingale, *, factor: float = 1.0, shift: float = 0.0
) -> Floats:
    """log of the e-value against "candidate's mean = factor * baseline's mean + shift".

    Refuted at level alpha when it reaches log(1/alpha). Infinite when no pair of means in [0, 1]
    satisfies the claim. The shape is that of the martingales' counts.
    """
    low, high = max(EDGE, (EDGE - shift) / factor), min(1 - EDGE, (1 - EDGE - shift) / factor)
    if low > high:
        return np.full(np.shape(baseline.centre), np.inf)
    # Both martingales fall, then rise (but for a handful of values in [0, 1], hence the points all over):
    # the smallest product lies between the two centres.
    everywhere = np.linspace(low, high, POINTS) + np.zeros((*np.shape(baseline.centre), 1))
    ends = baseline.centre, (candidate.centre - shift) / factor
    left, right = np.clip(np.minimum(*ends), low, high), np.clip(np.maximum(*ends), low, high)
    best = np.min(baseline(everywhere) + candidate(factor * everywhere + shift), axis=-1)
    for _ in range(ZOOMS):
        grid = np.linspace(left, right, POINTS, axis=-1)
        value = baseline(grid) + candidate(factor * grid + shift)
        at = np.argmin(value, axis=-1, keepdims=True)
        best = np.minimum(best, np.take_along_axis(value, at, -1)[..., 0])
        left = np.take_along_axis(grid, np.maximum(at - 1, 0), -1)[..., 0]
        right = np.take_along_axis(grid, np.minimum(at + 1, POINTS - 1), -1)[..., 0]
    return np.asarray(best, dtype=np.float64)
