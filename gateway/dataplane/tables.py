"""An allocation made ready for requests: who may get one, with what probability, and what the record says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.dataplane.request.features import FeatureExtractor, FeatureValues
from gateway.dataplane.variant import VariantPlan
from policies.allocation.model import Allocation
from policies.contextual.bandit import Ensemble
from policies.contextual.features import encode, recorded

MAX_CACHED_SHARES: Final = 1024
"""Combinations of feature values that a table remembers; when it is full it forgets all of them."""

IdPrefix = Callable[[str, str, str, int, float, bool, bytes], bytes]
"""(route, assigned, served, epoch, propensity, forced, context) → the part of a decision id that they fix."""


class Choice:
    """One prebuilt decision: a variant with its probability in one epoch."""

    __slots__ = ("_drawn", "_forced", "context", "propensity", "table", "variant")

    def __init__(self, variant: VariantPlan, propensity: float, table: Table, context: bytes = b"") -> None:
        self.variant = variant
        self.propensity = propensity
        self.table = table
        self.context = context
        """The features that led here, packed (`gateway.record.context`); b"" if none are read."""
        self._drawn: dict[str, bytes] = {}
        self._forced: dict[str, bytes] = {}

    def id_prefix(self, served: str, forced: bool) -> bytes:
        """The part of the decision id that all decisions like this share."""
        known = self._forced if forced else self._drawn
        prefix = known.get(served)
        if prefix is None:
            table = self.table
            prefix = known[served] = table.id_prefix(
                table.route, self.variant.name, served, table.epoch, self.propensity, forced, self.context
            )
        return prefix


class CachedShares:
    """What all requests with the same feature values have in common in one epoch."""

    __slots__ = ("allocation", "choices", "features")

    def __init__(self, table: Table, allocation: Allocation, features: str, context: bytes) -> None:
        self.allocation = allocation
        self.features = features
        """Canonical JSON, for the record; "" if none are read."""
        shares = zip(allocation.variants, allocation.probabilities, strict=True)
        self.choices = tuple(Choice(table.variants[name], p, table, context) for name, p in shares)
        """By the index of the variant in ``allocation``."""


class Table:
    """The allocation of a route in one epoch."""

    __slots__ = (
        "_cached", "allocation", "common", "ensemble", "epoch", "extractor", "id_prefix", "route", "variants"
    )  # fmt: skip

    def __init__(
        self,
        route: str,
        epoch: int,
        allocation: Allocation,
        variants: Mapping[str, VariantPlan],
        id_prefix: IdPrefix,
        extractor: FeatureExtractor | None = None,
        ensemble: Ensemble | None = None,
    ) -> None:
        """
        Args:
            route: Its name.
            epoch: The number of the allocation.
            allocation: The shares of all requests, or without an ``ensemble`` of those with features too.
            variants: All of the route, by name.
            id_prefix: Makes the shared part of decision ids.
            extractor: Of a bandit with features, or a route with segments or covariates.
            ensemble: What such a bandit has learned; None: nothing yet.
        """
        self.route = route
        self.epoch = epoch
        self.allocation = allocation
        self.variants = variants
        self.id_prefix = id_prefix
        self.extractor = extractor
        self.ensemble = ensemble
        self.common = CachedShares(self, allocation, "", b"")
        """The shares of a request whose features are not read."""
        self._cached: dict[FeatureValues, CachedShares] = {}

    def shares(self, values: FeatureValues) -> CachedShares:
        """The shares of requests with these feature values."""
        shares = self._cached.get(values)
        if shares is None:
            if len(self._cached) >= MAX_CACHED_SHARES:
                self._cached.clear()
            shares = self._cached[values] = self._shares(values)
        return shares

    def _shares(self, values: FeatureValues) -> CachedShares:
        extractor = self.extractor
        assert extractor is not None
        raw = extractor.named(values)
        allocation = self.allocation
        if self.ensemble is not None:
            allocation = self.ensemble.allocation(encode(extractor.features, raw))
        return CachedShares(self, allocation, recorded(extractor.features, raw), extractor.packed(raw))
