"""Betting on yes-or-no outcomes of two variants: the sharpest sequential test of a limit on their difference.

Turner, Ly & Grünwald (2024), "Generic e-variables for exact sequential k-sample tests that allow for optional
stopping", Journal of Statistical Planning and Inference 230. Outcomes arrive in blocks of some of either variant.
Before each block both rates are predicted from the blocks before it. The bet is the likelihood of the block under
the predicted rates, over that under the nearest pair of rates for which the claim is false (the reverse information
projection, here a search in one dimension). Its expectation is at most 1 whatever the true rates, as long as the
claim is false at that moment: rates and shares may move. So the product of all bets passes 1/alpha with probability
at most alpha, and goes on over the stages of a rollout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

PRIOR: Final = 0.18
"""Pseudo-observations of each outcome before the first block (their Section 4: the best all-round)."""
GROWTH: Final = 0.25
"""Maximum length of a block as a share of what came before it: longer ones are cut, so that predictions learn."""
ODDS: Final = (1.2, 1.5, 2.0, 3.0, 6.0)
"""Multiples of the border's odds that are bet on."""
ABOVE: Final = (0.25, *[0.15] * len(ODDS))
"""Parts of the capital on ``above``: by the rates seen so far, and by each of `ODDS`."""
BELOW: Final = (0.25, 0.75)
"""Parts of the capital on ``below``: by the rates seen so far, and by the rate of both together."""
_EDGE: Final = 1e-9
_MAX_DRAW: Final = 1e9
"""numpy draws from no more."""
_ROUNDING: Final = 1e-12
_PRECISION: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Limit:
    """The border candidate's rate = ``factor`` * baseline's rate + ``shift``."""

    factor: float = 1.0
    shift: float = 0.0

    def excess(self, baseline: float, candidate: float) -> float:
        """How far the pair of rates lies above the border."""
        return candidate - self.factor * baseline - self.shift

    def nearest(self, rates: tuple[float, float], sizes: tuple[float, float]) -> tuple[float, float] | None:
        """The pair on the border that is nearest to ``rates`` in the information lost on a block of ``sizes``; None
        where no pair of rates lies on it."""
        low = max(_EDGE, (_EDGE - self.shift) / self.factor)
        high = min(1 - _EDGE, (1 - _EDGE - self.shift) / self.factor)
        if low >= high:
            return None

        (n, m), (p, r), factor, shift = sizes, rates, self.factor, self.shift

        def slope(q: float) -> tuple[float, float]:
            """First and second derivative of the information lost."""
            c = factor * q + shift
            u, v = q * (1 - q), c * (1 - c)
            return (
                n * (q - p) / u + m * factor * (c - r) / v,
                n * ((q - p) ** 2 + p * (1 - p)) / u**2 + m * factor**2 * ((c - r) ** 2 + r * (1 - r)) / v**2,
            )

        # It lies between the two points at which one of the rates is kept as it is.
        ends = sorted((p, (r - shift) / factor))
        q = _zero(slope, *(min(max(end, low), high) for end in ends))
        return q, self.factor * q + self.shift


def _zero(rising: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """Where a function that rises from ``low`` to ``high`` is 0 (otherwise the nearer end), from its value and slope.

    Newton's method, with a bisection where that leaves the bracket. Importing scipy.optimize would delay every start.
    """
    at = (low + high) / 2
    while True:
        value, slope = rising(at)
        low, high = (low, at) if value > 0 else (at, high)
        following = at - value / slope
        if following != at and not low < following < high:  # `at` is an end
            following = (low + high) / 2
        if abs(following - at) <= _PRECISION * at:
            return following
        at = following


@dataclass(frozen=True, slots=True)
class Block:
    """Outcomes of either variant: how many, and how many of them were a yes."""

    n: tuple[float, float] = (0.0, 0.0)
    yes: tuple[float, float] = (0.0, 0.0)

    def __add__(self, other: Block) -> Block:
        return Block(
            (self.n[0] + other.n[0], self.n[1] + other.n[1]),
            (self.yes[0] + other.yes[0], self.yes[1] + other.yes[1]),
        )

    def __sub__(self, other: Block) -> Block:
        return Block(
            (self.n[0] - other.n[0], self.n[1] - other.n[1]),
            (self.yes[0] - other.yes[0], self.yes[1] - other.yes[1]),
        )

    @property
    def grown(self) -> bool:
        """Whether it can be an addition: corrections may subtract, and can't be bet on."""
        return all(0 <= k <= n for k, n in zip(self.yes, self.n, strict=True))

    def rates(self) -> tuple[float, float]:
        """What to predict after it."""
        first, second = ((k + PRIOR) / (n + 2 * PRIOR) for k, n in zip(self.yes, self.n, strict=True))
        return first, second

    def rate(self) -> float:
        """What to predict after it for both alike."""
        return (sum(self.yes) + PRIOR) / (sum(self.n) + 2 * PRIOR)

    def log_likelihood(self, rates: tuple[float, float]) -> float:
        return sum(
            k * math.log(p) + (n - k) * math.log1p(-p)
            for k, n, p in zip(self.yes, self.n, rates, strict=True)
        )


class Bets:
    """The bets on one limit so far, both ways, each of which divides its capital over several predictions.

    That a candidate is worse (``above``) is bet on by the rates seen so far, and by odds that are some multiple of
    the border's: the multiple that is near the truth need not be learned. That it is sound (``below``) is mostly
    bet on by one rate for both variants, which is what sound candidates have.
    """

    def __init__(self, limit: Limit, carried: float = 0.0, seen: Block | None = None) -> None:
        """``carried``: the log of the e-value ``above`` from earlier windows."""
        self.limit = limit
        self.seen = seen or Block()
        """Of this window, what was bet on."""
        self._carried = carried
        self._above = [0.0] * len(ABOVE)
        self._below = [0.0] * len(BELOW)

    def copy(self) -> Bets:
        """The same, to go on with by itself."""
        made = Bets(self.limit, self._carried, self.seen)
        made._above, made._below = [*self._above], [*self._below]
        return made

    @property
    def above(self) -> float:
        """The log of the e-value that the candidate's rate lies above the border, over all windows."""
        return self._carried + _mixed(ABOVE, self._above)

    @property
    def below(self) -> float:
        """The log of the e-value that it lies below; of this window alone."""
        return _mixed(BELOW, self._below)

    def look(self, seen: Block) -> None:
        """Bets on what has come since the last look; ``seen`` is all of the window."""
        new = seen - self.seen
        if not new.grown:
            # Corrections took outcomes away: what was won stays, and later outcomes are bet on from here.
            self.seen = seen if seen.grown else self.seen
            return
        if min(new.n) < 1:
            return  # a block needs both; it waits
        for block in _cut(new, self.seen):
            self._bet(block)
            self.seen += block

    def _bet(self, block: Block) -> None:
        own, together = self.seen.rates(), self.seen.rate()
        gain = self._gain(own, block)
        (self._above if self.limit.excess(*own) > 0 else self._below)[0] += gain
        if self.limit.excess(together, together) < 0:
            self._below[1] += self._gain((together, together), block)
        border = self.limit.factor * own[0] + self.limit.shift
        if 0 < border < 1:
            for at, odds in enumerate(ODDS, 1):
                raised = odds * border / (1 - border + odds * border)
                self._above[at] += self._gain((own[0], raised), block)

    def _gain(self, rates: tuple[float, float], block: Block) -> float:
        """The log of what a bet on ``rates`` wins."""
        if abs(self.limit.excess(*rates)) <= _ROUNDING:
            return 0.0
        nearest = self.limit.nearest(rates, block.n)
        return 0.0 if nearest is None else block.log_likelihood(rates) - block.log_likelihood(nearest)


def _mixed(weights: Sequence[float], logs: Sequence[float]) -> float:
    """The log of the weighted mean of e-values."""
    # Taken out, or exp would overflow where the evidence is overwhelming.
    most = max(logs)
    return most + math.log(sum(w * math.exp(x - most) for w, x in zip(weights, logs, strict=True)))


def _cut(new: Block, before: Block) -> Iterator[Block]:
    """``new`` in parts, each short against what was known before it.

    Outcomes of a block are exchangeable, so any order that is drawn without looking at them is as good as the true
    one. The draw is seeded by the numbers, so that every process comes to the same.
    """
    rng = np.random.default_rng([int(x) for x in (*before.n, *new.n)])
    rest, known = new, sum(before.n)
    while min(rest.n) >= 1:
        part = min(1.0, max(GROWTH * known, 8.0) / sum(rest.n))
        sizes = [min(n, max(1.0, math.floor(n * part))) for n in rest.n]
        # A rest without one of the variants could not be bet on any more.
        if min(n - size for n, size in zip(rest.n, sizes, strict=True)) < 1:
            sizes = list(rest.n)
        yes = [_drawn(rng, k, n, size) for k, n, size in zip(rest.yes, rest.n, sizes, strict=True)]
        block = Block((sizes[0], sizes[1]), (yes[0], yes[1]))
        yield block
        rest, known = rest - block, known + sum(sizes)


def _drawn(rng: np.random.Generator, yes: float, n: float, size: float) -> float:
    """How many of ``size`` are a yes, drawn from ``n`` of which ``yes`` are."""
    if size == n:
        return yes
    if n >= _MAX_DRAW:  # cut in proportion: the noise of a draw is far below that of the outcomes
        return float(min(max(round(yes * size / n), size - (n - yes)), yes))
    return float(rng.hypergeometric(round(yes), round(n - yes), round(size)))


class WindowBets:
    """The bets of all guardrails within one window of a rollout."""

    def __init__(self, carried: Mapping[str, float] | None = None) -> None:
        """``carried``: of each guardrail, the log of the e-value that its limit is breached, from earlier windows."""
        self._carried = dict(carried or {})
        self._bets: dict[str, Bets] = {}

    def copy(self) -> WindowBets:
        """The same, to go on with by itself."""
        made = WindowBets(self._carried)
        made._bets = {key: bets.copy() for key, bets in self._bets.items()}
        return made

    def look(self, key: str, limit: Limit, seen: Block) -> Bets:
        """The bets on one guardrail's limit, after all of the window so far."""
        bets = self._bets.get(key)
        if bets is None or bets.limit != limit:
            bets = self._bets[key] = Bets(limit, self._carried.get(key, 0.0))
        bets.look(seen)
        return bets

    def carried(self) -> dict[str, float]:
        """What the next window goes on with."""
        return self._carried | {key: bets.above for key, bets in self._bets.items()}
