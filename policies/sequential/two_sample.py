"""Two variants against each other, always valid, from additive sums only.

Each variant's data give, for every mean it could have, a martingale that starts at 1 and at the true
mean exceeds 1/alpha with probability at most alpha, however often it is looked at (Ville 1939). The
product of both is such a martingale for the pair of means, whatever the shares and the order of
arrival. A claim "the candidate's mean is factor * the baseline's + shift" is refuted once the product
exceeds 1/alpha at *every* pair that satisfies it; the claims not refuted make the interval. This is the
construction of Howard & Ramdas (2022, Section 5) for quantiles, applied to means. It needs no common
prior and no normal approximation, and it works with zeros.

What it assumes: within the window each variant's values have a constant mean and are not tied to
each other (see docs/trust.md, "Correlated requests").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlog1py, xlogy

from policies.sequential.mixtures import Floats, gamma_exponential_log_mixture, normal_rho
from policies.types import RewardSums

SCALES: Final = (16.0, 400.0, 10_000.0, 250_000.0)
"""The sample sizes at which a rate's martingale is sharp. An equal mixture loses at most log 4 to the best of
them, and to choose one beforehand would cost more wherever it is wrong: the smallest finds a candidate that
always fails within a handful of requests, the largest tells 0.1 % from 0.15 %."""

_EDGE: Final = 1e-12
_ZOOMS: Final = 4
_PLAIN: Final = 0.05
"""How far the log martingale at a limit is from the level where no rounding of the interval can matter."""


def _inside(mean: Floats) -> Floats:
    return np.asarray(np.clip(mean, _EDGE, 1 - _EDGE), dtype=np.float64)


class MeanMartingale(Protocol):
    """One variant's data as a function of the mean that it is supposed to have."""

    @property
    def centre(self) -> Floats:
        """The supposed mean that the data speak least against."""
        ...

    def __call__(self, mean: Floats) -> Floats:
        """log of the martingale at each supposed ``mean`` in (0, 1)."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class RateMartingale:
    """``n`` yes-or-no observations with ``successes`` yes: numbers, or arrays of one shape."""

    successes: npt.ArrayLike
    n: npt.ArrayLike

    @property
    def centre(self) -> Floats:
        n = np.asarray(self.n, dtype=np.float64)
        return _inside(np.asarray(self.successes, dtype=np.float64) / np.maximum(n, 1.0))

    def __call__(self, mean: Floats) -> Floats:
        extra = (np.ndim(mean) - np.ndim(self.n)) * (1,)
        successes = np.reshape(np.asarray(self.successes, dtype=np.float64), np.shape(self.successes) + extra)
        n = np.reshape(np.asarray(self.n, dtype=np.float64), np.shape(self.n) + extra)
        return rate_log_martingale(mean, successes, n)


_CONCENTRATIONS: Final = np.asarray([normal_rho(scale) - 1 for scale in SCALES])


def rate_log_martingale(
    p: Floats, successes: Floats, n: Floats, concentrations: Floats = _CONCENTRATIONS
) -> Floats:
    """Return the log martingale of a rate at the supposed rate ``p``; ``p``, ``successes``, ``n`` broadcast.

    The Dirichlet-multinomial martingale of Lindon & Malek (2022) for two categories, which is the
    beta-binomial mixture of Howard et al. (2021, Proposition 7): the likelihood under rates drawn from
    Beta(k p, k (1 - p)), over that under p. The equal mixture over the ``concentrations`` k, shape (M,).
    """
    p = np.clip(p, _EDGE, 1 - _EDGE)
    failures = n - successes
    k = concentrations.reshape(-1, *[1] * max(p.ndim, n.ndim, successes.ndim))
    drawn = (
        gammaln(k * p + successes) + gammaln(k * (1 - p) + failures) - gammaln(k * p) - gammaln(k * (1 - p))
    )
    sizes = gammaln(k) - gammaln(k + n) - math.log(concentrations.size)
    plain = xlogy(successes, p) + xlog1py(failures, -p)
    return np.asarray(np.logaddexp.reduce(drawn + sizes, axis=0) - plain, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class BoundedMartingale:
    """Values in [0, 1], by their sums."""

    sums: RewardSums

    @property
    def centre(self) -> Floats:
        return _inside(np.asarray(self.sums.mean if self.sums.count else 0.5))

    def __call__(self, mean: Floats) -> Floats:
        return bounded_log_martingale(mean, self.sums)


@dataclass(frozen=True, slots=True)
class UnitShareMartingale:
    """Values in [0, 1], most of them 0 or 1: the share of each unit's requests that failed, say.

    The equal mixture of two martingales. That of a rate is sharp where units have few requests; it holds for
    values between 0 and 1, for it is convex in them. That of bounded means is sharp where units have many.
    """

    sums: RewardSums

    @property
    def centre(self) -> Floats:
        return BoundedMartingale(self.sums).centre

    def __call__(self, mean: Floats) -> Floats:
        total = min(max(self.sums.total, 0.0), self.sums.count)
        rate = rate_log_martingale(mean, np.asarray(total), np.asarray(self.sums.count))
        return np.asarray(
            np.logaddexp(rate, BoundedMartingale(self.sums)(mean)) - math.log(2), dtype=np.float64
        )


_VARIANCES: Final = np.asarray([normal_rho(v, one_sided=True) for v in (1.0, 30.0, 1_000.0)])


def bounded_log_martingale(mean: Floats, sums: RewardSums) -> Floats:
    """log of the martingale of values in [0, 1], at the supposed ``mean``.

    At a fixed supposed mean m the deviations y = x - m satisfy E exp(l y - psi(l) y^2) <= 1 for
    psi(l) = (-log(1 - c l) - c l) / c^2 and 0 <= l < 1/c, where y >= -c (Fan, Grama & Liu 2015, Lemma
    4.1). So sum(y) is sub-exponential with intrinsic time sum(y^2), and the gamma-exponential mixture of
    Howard et al. (2021, Proposition 9) applies; both sums follow from ``sums`` alone. Adapts to the
    variance, exact at every count. Both directions are averaged, as are three scales of variance.
    """
    m = np.clip(mean, _EDGE, 1 - _EDGE)
    s = sums.total - sums.count * m
    v = np.maximum(sums.squares - 2 * m * sums.total + sums.count * m * m, 0.0)
    rho = _VARIANCES.reshape(-1, *[1] * m.ndim)
    # A scale larger than needed is still valid, and keeps the gamma functions in range.
    scales = np.maximum([[m], [1 - m]], 0.01)
    both = gamma_exponential_log_mixture(np.asarray([[s], [-s]]), v, rho, scales)
    return np.asarray(np.logaddexp.reduce(both, axis=(0, 1)) - math.log(2 * len(rho)), dtype=np.float64)


def difference_interval(
    baseline: MeanMartingale, candidate: MeanMartingale, alpha: float
) -> tuple[float, float]:
    """(low, high) for candidate's mean - baseline's mean, at all times simultaneously with probability 1 - alpha."""
    (b, c), (b_far, c_far) = _corners(baseline, candidate, -math.log(alpha))
    return float(np.min(_exact(c) - _exact(b))), float(np.max(_exact(c_far) - _exact(b_far)))


def ratio_interval(baseline: MeanMartingale, candidate: MeanMartingale, alpha: float) -> tuple[float, float]:
    """(low, high) for candidate's mean / baseline's mean; high is infinite while the baseline's may be 0."""
    (b, c), (b_far, c_far) = _corners(baseline, candidate, -math.log(alpha))
    low, high = float(np.min(_exact(c) / b)), float(np.max(c_far / b_far))
    return low, (high if np.min(b_far) > _EDGE else math.inf)


def side_of(
    limit: float, baseline: MeanMartingale, candidate: MeanMartingale, alpha: float, *, ratio: bool
) -> tuple[float, float] | None:
    """Find on which side of ``limit`` the interval of the difference (of the ratio) lies, without computing it.

    Return (-inf, inf) if it contains ``limit``, (inf, inf) if it lies above, (-inf, -inf) if below, and None
    if only the interval itself can tell: near the edges, and where the limit is about to be decided.
    """
    b, c = float(baseline.centre), float(candidate.centre)
    end = (c / limit if limit > 0 else math.nan) if ratio else c - limit
    if not (_EDGE < end < 1 - _EDGE and _EDGE < b < 1 - _EDGE):
        return None
    # Along the claim both martingales rise outside the segment between the centres, and are convex within it.
    means = np.linspace(b, end, 33)
    for _ in range(2):
        other = means * limit if ratio else means + limit
        if not np.all((other > _EDGE) & (other < 1 - _EDGE)):
            return None
        logs = baseline(means) + candidate(other)
        least = int(np.argmin(logs))
        around = slice(max(least - 1, 0), least + 2)
        bound = 2 * logs[least] - logs[around].max()
        if logs[least] < -math.log(alpha) - _PLAIN:
            return -math.inf, math.inf
        if bound > -math.log(alpha) + _PLAIN:
            far = math.inf if c > (b * limit if ratio else b + limit) else -math.inf
            return far, far
        means = np.linspace(means[around][0], means[around][-1], 33)
    return None


def mean_interval(martingale: MeanMartingale, alpha: float) -> tuple[float, float]:
    """(low, high) for one variant's mean in [0, 1]."""
    level = -math.log(alpha)
    low, high = (_exact(_branch(martingale, edge, level).reach(level)) for edge in (_EDGE, 1 - _EDGE))
    return float(low), float(high)


def _exact(mean: Floats) -> Floats:
    """Means at the edge of what is computed are 0 and 1."""
    return np.where(mean <= _EDGE, 0.0, np.where(mean >= 1 - _EDGE, 1.0, mean))


@dataclass(frozen=True, slots=True)
class _Branch:
    """One martingale from its centre outwards: ``means``, and the least log martingale at each or farther out.

    The martingale rises outwards but where there are next to no data; then it is the farthest mean that counts.
    """

    martingale: MeanMartingale
    means: Floats
    levels: Floats

    def reach(self, level: float | Floats) -> Floats:
        """The farthest mean that is not refuted at ``level``."""
        level = np.asarray(level, dtype=np.float64)
        at = np.clip(np.searchsorted(self.levels, level, side="right"), 1, self.levels.size - 1)
        near, far, low, high = self.means[at - 1], self.means[at], self.levels[at - 1], self.levels[at]
        mean = near
        # The curve is convex: its chord is too short, and the chord of what is left is short by far less.
        for _ in range(_CHORDS):
            with np.errstate(invalid="ignore", divide="ignore"):
                part = np.where(high <= level, 1.0, np.maximum((level - low) / (high - low), 0.0))
            mean = near + part * (far - near)
            found = self.martingale(mean)
            inside = found <= level
            near, low = np.where(inside, mean, near), np.where(inside, found, low)
            far, high = np.where(inside, far, mean), np.where(inside, high, found)
        return np.asarray(mean, dtype=np.float64)


_CHORDS: Final = 3


def _branch(martingale: MeanMartingale, edge: float, level: float) -> _Branch:
    """``martingale`` from its centre towards ``edge``, as far as ``level`` reaches."""
    centre = float(martingale.centre)
    end = _end(martingale, _outwards(martingale, edge), level)
    means = np.linspace(centre, end, 96)
    if end < centre / 4:  # a ratio turns on the small means, too
        means = np.sort(np.concatenate([means, np.geomspace(end, centre, 96)]))[::-1]
    return _along(martingale, means)


def _end(martingale: MeanMartingale, steps: Floats, level: float) -> float:
    """Just beyond the last of ever finer steps at which ``martingale`` is not above ``level``."""
    for _ in range(_ZOOMS):
        kept = np.flatnonzero(martingale(steps) <= level)
        last = int(kept[-1]) if kept.size else 0
        if last == steps.size - 1:
            break
        steps = np.linspace(steps[last], steps[last + 1], 33)
    return float(steps[-1])


def _outwards(martingale: MeanMartingale, edge: float) -> Floats:
    centre = float(martingale.centre)
    return centre + (edge - centre) * np.append(0.0, np.geomspace(1e-9, 1.0, 64))


def _along(martingale: MeanMartingale, means: Floats) -> _Branch:
    return _Branch(martingale, means, np.minimum.accumulate(martingale(means)[::-1])[::-1])


def _least(martingale: MeanMartingale) -> float:
    return min(float(martingale(_outwards(martingale, edge)).min()) for edge in (_EDGE, 1 - _EDGE))


_Pairs = tuple[Floats, Floats]


@lru_cache(16)
def _corners(baseline: MeanMartingale, candidate: MeanMartingale, level: float) -> tuple[_Pairs, _Pairs]:
    """The border of the region of pairs (baseline's mean, candidate's) that are not refuted, in two corners.

    First where the candidate is low and the baseline high, then the other way round. Kept for a while: the ratio of a
    pair is asked for after its difference.
    """
    b_room, c_room = level - _least(candidate), level - _least(baseline)
    low, high = _EDGE, 1 - _EDGE
    return (
        _border(_branch(baseline, high, b_room), _branch(candidate, low, c_room), level),
        _border(_branch(baseline, low, b_room), _branch(candidate, high, c_room), level),
    )


def _border(baseline: _Branch, candidate: _Branch, level: float) -> _Pairs:
    room = level - candidate.levels[0]
    inside = baseline.levels < room
    means = np.append(baseline.means[inside], baseline.reach(room))
    levels = np.append(baseline.levels[inside], min(room, baseline.levels[-1]))
    # A hair more room: where a martingale is flat, rounding must not decide how far it reaches.
    return means, candidate.reach(level - levels + 1e-9)
