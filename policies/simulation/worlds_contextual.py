"""Synthetic worlds in which a request's features say which variant is better for it, or seem to.

The first declared feature decides, through its *signal* s in [-1, 1] (a number's place in its range, a
category's place in its list); the others are noise that a policy must learn to leave alone. The mean of
variant k of K is

    mean_k + tilt (2 k / (K - 1) - 1) g(s),    g(s) = s, or 2 |s| - 1 where the world is bent,

so that the first variant is the better one for low signals and the last one for high signals. Time t runs
from 0 to 1 over the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.contextual.features import Feature, Numeric, columns
from policies.types import Goal, MetricType

Array = NDArray[np.float64]


class Rows(NamedTuple):
    """n requests of one moment."""

    x: Array
    """(n, d): as `policies.contextual.features.encode` writes them."""
    means: Array
    """(n, K): the true mean of each variant for the request."""
    seen: Array
    """(n, K): the same as far as the features show it, which is all that any policy can know."""


@dataclass(frozen=True, slots=True)
class ContextWorld:
    """K variants, the features of their requests, and how the two go together."""

    name: str
    means: tuple[tuple[str, float], ...]
    """By variant, over all signals."""
    features: tuple[Feature, ...]
    tilt: float = 0.0
    """How far the signal moves the mean of the first and of the last variant."""
    bent: bool = False
    """Whether the mean follows 2 |s| - 1, which no line can."""
    turns: float = 1.0
    """From this time on the tilt is the other way round."""
    drifts: bool = False
    """Whether low signals become rare and high ones common: the features drift, the truth stands."""
    missing: float = 0.0
    """The share of requests without the feature that decides."""
    model: MetricType = "boolean"
    goal: Goal = "maximize"
    sd: float = 1.0
    """Of real values about their mean."""
    requests: int = 10_000
    seconds: float = 3600.0

    def __post_init__(self) -> None:
        if len(self.means) < 2 or not self.features:
            raise ValueError("a world with features needs at least two variants and one feature")
        if not 0 <= self.missing <= 1:
            raise ValueError(f"a share of {self.missing} can't be missing; write one between 0 and 1")
        if self.missing and self.drifts:
            raise ValueError("features that drift can't be missing too: what they show would drift as well")
        if self.bent and not isinstance(self.features[0], Numeric):
            raise ValueError("a bent world needs a number as its first feature")
        values = [mean for _, mean in self.means]
        least = min(values) - self.tilt
        if (self.model != "real" and least < 0) or (self.bounded and max(values) + self.tilt > 1):
            raise ValueError(f"a tilt of {self.tilt:g} leads out of the range of a {self.model} metric")

    @property
    def bounded(self) -> bool:
        return self.model in ("boolean", "fraction")

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.means)

    def rows(self, rng: np.random.Generator, n: int, t: float) -> Rows:
        """``n`` requests at time ``t``."""
        # Where each value lies in its range: even, but for a feature that drifts from high to low densities.
        place = rng.random((n, len(self.features)))
        if self.drifts:
            place[:, 0] = rng.beta(1.0 + 3.0 * t, 4.0 - 3.0 * t, n)
        lost = rng.random(n) < self.missing
        blocks = [_encoded(feature, place[:, i]) for i, feature in enumerate(self.features)]
        blocks[0][lost] = _absent(self.features[0])
        signal = _signal(self.features[0], place[:, 0])
        x = np.column_stack([np.ones(n), *blocks])
        # Over all places alike, g averages 0: that is what a request without the feature shows.
        g = 2.0 * np.abs(signal) - 1.0 if self.bent else signal
        return Rows(x, self._means(g, t), self._means(np.where(lost, 0.0, g), t))

    def _means(self, g: Array, t: float) -> Array:
        tilt = np.linspace(-self.tilt, self.tilt, len(self.means)) * (1.0 if t < self.turns else -1.0)
        return np.array([mean for _, mean in self.means]) + g[:, None] * tilt

    def rewards(self, rng: np.random.Generator, means: Array) -> Array:
        """One reward for each of ``means`` (n,); (n,)."""
        if self.model == "boolean":
            return (rng.random(len(means)) < means).astype(float)
        if self.model == "fraction":
            return rng.binomial(2, means) / 2.0
        if self.model == "count":
            return rng.poisson(means).astype(float)
        return means + self.sd * rng.standard_normal(len(means))


def _encoded(feature: Feature, place: Array) -> Array:
    """The feature's columns for values at ``place`` (n,) of its range; (n, columns)."""
    if isinstance(feature, Numeric):
        return np.column_stack([2.0 * place - 1.0, np.zeros(len(place))])
    return np.asarray(_category(len(feature.values), place)[:, None] == np.arange(len(feature.values)), float)


def _category(values: int, place: Array) -> NDArray[np.intp]:
    """Which value; one declared value alone is there or (-1) not."""
    if values == 1:
        return np.floor(2.0 * place).astype(np.intp) - 1
    return np.floor(values * place).astype(np.intp)


def _signal(feature: Feature, place: Array) -> Array:
    """s (n,) in [-1, 1], 0 on average over all places."""
    if isinstance(feature, Numeric):
        return 2.0 * place - 1.0
    values = len(feature.values)
    if values == 1:
        return np.asarray(2.0 * _category(1, place) + 1.0, dtype=float)
    return np.asarray(2.0 * _category(values, place) / (values - 1) - 1.0, dtype=float)


def _absent(feature: Feature) -> Array:
    """The columns of a request that lacks the feature."""
    return np.array(feature.encode(None))


TWO_FEATURES: tuple[Feature, ...] = (Numeric("length", 0.0, 1000.0), Numeric("hour", 0.0, 24.0))
"""Those of the published table."""


def standard(
    means: Sequence[float] = (0.30, 0.32, 0.35),
    requests: int = 10_000,
    features: tuple[Feature, ...] = TWO_FEATURES,
    tilt: float = 0.2,
    model: MetricType = "boolean",
) -> dict[str, ContextWorld]:
    """The worlds of the published table, by name, on variants v1, v2, ... to be maximised.

    ``tilt`` is made smaller where it would lead out of the metric's range. Raises ValueError for means that
    lie outside it themselves.
    """
    named = tuple((f"v{k + 1}", float(mean)) for k, mean in enumerate(means))
    room = [*means] if model != "real" else []
    if model in ("boolean", "fraction"):
        room += [1.0 - mean for mean in means]
    if min(room, default=0.0) < 0:
        raise ValueError(f"the means of a {model} metric must lie in its range")
    plain = ContextWorld(
        "features decide", named, features, min([tilt, *room]), model=model, requests=requests
    )
    worlds = [
        plain,
        replace(plain, name="features irrelevant", tilt=0.0),
        replace(plain, name="features drift", drifts=True),
        replace(plain, name="feature often missing", missing=0.5),
        replace(plain, name="preferences turn", turns=0.5),
    ]
    if isinstance(features[0], Numeric):
        worlds.append(replace(plain, name="no straight line", bent=True))
    return {world.name: world for world in worlds}


def width(world: ContextWorld) -> int:
    """d: the columns of a row."""
    return len(columns(world.features))
