"""Arithmetic on shares: floors, caps and top-two. Each takes K numbers that sum to 1 and returns such."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum


def floored(shares: Sequence[float], floor: float) -> list[float]:
    """floor + (1 - K floor) share: no share is below the floor, and all differences keep their proportions.

    Raises ValueError when K floors are more than everything.
    """
    k = len(shares)
    if not 0 <= k * floor <= 1 + 1e-9:
        raise ValueError(f"{k} floors of {floor:g} are more than everything; write {1 / k:g} at most")
    rest = max(0.0, 1.0 - k * floor)
    return [floor + rest * share for share in shares]


def capped(shares: Sequence[float], caps: Sequence[float]) -> list[float]:
    """``shares`` with none above its cap; what the caps take goes to the others in proportion.

    min(cap, λ share) with the λ that makes the sum 1. Where the uncapped have no share at all to be
    proportional to, they take what is left in proportion to their caps. Raises ValueError when the
    caps are not in [0, 1] or leave less than everything.
    """
    if any(not 0 <= cap <= 1 for cap in caps):
        raise ValueError(f"caps must lie in [0, 1], not {list(caps)}")
    if fsum(caps) < 1.0 - 1e-12:
        raise ValueError(
            f"the caps {list(caps)} leave less than everything: not all variants can be held back; "
            "lift a cap, or roll back to a variant that has none"
        )
    out = list(shares)
    bound: set[int] = set()
    # Each cap that binds raises the others, which may reach theirs.
    while over := {k for k in range(len(out)) if k not in bound and out[k] > caps[k]}:
        bound |= over
        out = _spread(out, caps, bound)
    return out


def _spread(shares: list[float], caps: Sequence[float], bound: set[int]) -> list[float]:
    """The bound at their caps, the rest of the whole among the others."""
    free = [k for k in range(len(shares)) if k not in bound]
    rest = max(0.0, 1.0 - fsum(caps[k] for k in bound))
    by = {k: shares[k] for k in free}
    if not fsum(by.values()) > 0:
        by = {k: caps[k] for k in free}
    total = fsum(by.values()) or 1.0  # none may have a share, and what is left is rounding
    return [caps[k] if k in bound else rest * by[k] / total for k in range(len(shares))]


def top_two(best: Sequence[float], second: float) -> list[float]:
    """Top-two Thompson sampling's probabilities from P(best) (Russo 2016, section 3).

    The best of a draw is played with 1 - ``second``; otherwise draws are repeated until another is best,
    and that one is played: P_i (1 - second + second Σ_{j≠i} P_j / (1 - P_j)).
    """
    if len(best) < 2:
        return list(best)
    # Σ_{k≠j} instead of 1 - P_j keeps digits; the least share says which to play when one leads beyond doubt.
    padded = [max(p, 1e-15) for p in best]
    total = fsum(padded)
    p = [x / total for x in padded]
    ratio = [p[j] / fsum(x for k, x in enumerate(p) if k != j) for j in range(len(p))]
    whole = fsum(ratio)
    shares = [x * (1.0 - second + second * (whole - ratio[j])) for j, x in enumerate(p)]
    return [x / fsum(shares) for x in shares]
