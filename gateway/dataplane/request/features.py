"""Deciding by features: what a request shows of itself, and the shares that an ensemble gives it for that.

A route with features has a `ContextualTable` where others have a `Table`, so that these pay nothing for it.
What was worked out for a request (its row, its shares, the part of the decision id that they fix) is remembered
for others like it, as long as the epoch lasts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from gateway.dataplane.request.json_body import scalar_at
from gateway.dataplane.snapshot import Choice, Statics, Table, VariantPlan
from gateway.record.context import pack
from policies.allocation.model import Allocation
from policies.contextual.bandit import Ensemble
from policies.contextual.features import Feature, Scalar, encode, fingerprint, recorded

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange

REMEMBERED: Final = 1024
"""Kinds of requests that a table remembers; beyond it the memory starts anew."""

Seen = tuple[str | float | None, ...]
"""What a request has for each feature, in the order of their declaration; None: missing or unreadable."""


class Sight:
    """The declared features of a route, and where a request has them."""

    __slots__ = ("features", "fingerprint", "in_body", "sources")

    def __init__(self, features: Sequence[tuple[Feature, bytes | None, tuple[str, ...]]]) -> None:
        """Each feature with its header (lower-cased) or, where that is None, the keys to it in a JSON body."""
        self.sources = tuple(features)
        self.features = tuple(feature for feature, _, _ in features)
        self.fingerprint = fingerprint(self.features)
        self.in_body = any(header is None for _, header, _ in features)

    def look(self, x: Exchange) -> Seen:
        """A feature that can't be read is missing: nothing about a request makes this fail."""
        fields = x.body.fields if self.in_body else None
        kept = x.head.kept
        return tuple(
            [
                feature.read(_text(kept.get(header)) if header is not None else scalar_at(fields, keys))
                for feature, header, keys in self.sources
            ]
        )

    def packed(self, raw: Mapping[str, Scalar]) -> bytes:
        """The row of features by name, as decision ids carry it."""
        return pack(self.fingerprint, encode(self.features, raw))

    def named(self, seen: Seen) -> dict[str, Scalar]:
        """By the features' names."""
        return {feature.name: value for feature, value in zip(self.features, seen, strict=True)}


class Kind:
    """What all requests with the same features have in common in one epoch."""

    __slots__ = ("bounds", "choices", "context", "features", "owners", "shares", "table")

    def __init__(
        self, table: ContextualTable, features: str, context: bytes, shares: Sequence[float]
    ) -> None:
        self.table = table
        self.features = features
        """Canonical JSON, for the record."""
        self.context = context
        """The row, for the decision id."""
        self.owners = [k for k, share in enumerate(shares) if share]
        self.shares = [shares[k] for k in self.owners]
        self.bounds = list(accumulate(self.shares))
        self.bounds[-1] = 1.0  # the sum of the shares but for rounding
        self.choices: list[Choice | None] = [None] * len(self.owners)

    def pick(self, u: float) -> Choice:
        place = bisect_right(self.bounds, u)
        choice = self.choices[place]
        if choice is None:
            table = self.table
            name = table.allocation.variants[self.owners[place]]
            variant = table.by_name[name].variant
            choice = self.choices[place] = Choice(variant, self.shares[place], table, self.context)
        return choice


class ContextualTable(Table):
    """A `Table` whose shares depend on what is seen of the request."""

    __slots__ = ("ensemble", "kinds", "sight")

    def __init__(
        self,
        route: str,
        epoch: int,
        allocation: Allocation,
        variants: Mapping[str, VariantPlan],
        statics: Statics,
        sight: Sight,
        ensemble: Ensemble | None,
    ) -> None:
        """Without an ``ensemble`` (nothing was learned yet) the shares are the allocation's for everybody."""
        super().__init__(route, epoch, allocation, variants, statics)
        self.sight = sight
        self.ensemble = ensemble
        self.kinds: dict[Seen, Kind] = {}

    def pick(self, u: float, x: Exchange) -> Choice:
        kind = self.kind(self.sight.look(x))
        x.features = kind.features
        return kind.pick(u)

    def note(self, x: Exchange) -> None:
        x.features = recorded(self.sight.features, self.sight.named(self.sight.look(x)))

    def kind(self, seen: Seen) -> Kind:
        """What requests get that show ``seen``."""
        known = self.kinds.get(seen)
        if known is None:
            if len(self.kinds) >= REMEMBERED:
                self.kinds.clear()
            known = self.kinds[seen] = self._kind(seen)
        return known

    def _kind(self, seen: Seen) -> Kind:
        sight, ensemble = self.sight, self.ensemble
        raw = sight.named(seen)
        row = encode(sight.features, raw)
        shares = self.allocation.probabilities if ensemble is None else ensemble.shares(row)
        return Kind(self, recorded(sight.features, raw), pack(sight.fingerprint, row), shares)


def table(
    route: str,
    epoch: int,
    allocation: Allocation,
    variants: Mapping[str, VariantPlan],
    statics: Statics,
    sight: Sight | None,
    ensemble: Ensemble | None,
) -> Table:
    """The table of a route: with features (``sight``) or, like most, without."""
    if sight is None:
        return Table(route, epoch, allocation, variants, statics)
    return ContextualTable(route, epoch, allocation, variants, statics, sight, ensemble)


def _text(value: bytes | None) -> str | None:
    """A field's value; UTF-8 where it is that, as HTTP has had it since RFC 9110, else ISO 8859-1."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
