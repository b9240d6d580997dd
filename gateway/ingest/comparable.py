"""The rewards of a route as comparisons of its variants read them: by period, by unit, and by what was known before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from gateway.ingest.evidence import Key, Rewarded, RewardedBucket, joined
from gateway.state.base import Counts
from gateway.state.store import AggregateStore
from gateway.state.units import of_covariate
from policies.sequential.design_based import Period, Periods, UnitSums, WeightedSums, design_effect
from policies.types import CLIENT_ERROR_RATE, ERROR_RATES, PairSums, RewardSums

_NO_PAIRS: Final = PairSums()
_NO_VALUES: Final = Rewarded()
_NO_UNITS: Final[Mapping[Key, PairSums]] = {}
UNADJUSTED: Final[Mapping[str, str]] = {}
"""No metric is adjusted."""


def known_before(
    found: Mapping[Key, Rewarded], adjusted: Mapping[str, str], variant: str
) -> dict[str, PairSums]:
    """What was known before of a variant's units or requests, for metrics that are ``adjusted`` by it
    (`gateway.compile.plans.adjustments`)."""
    each = {metric: (found.get((variant, metric), Rewarded()), by) for metric, by in adjusted.items()}
    return {m: one.covariates.get(by, _NO_PAIRS) if by else one.past for m, (one, by) in each.items()}


def values_by_unit(
    found: Mapping[str, Rewarded], requests: Mapping[str, PairSums]
) -> dict[str, WeightedSums]:
    """Return by variant what all values of a metric tell within an epoch, where missing ones of units count as zero.

    The greatest design effect of the variants holds for each: one without any reward would seem to have none.
    ``requests``: by variant, the sums over the numbers of failures and of requests of its units. Where they are not
    known but values are missing, as while the record is being read, nothing is said; nor of values of which nothing is
    known by unit, from before the metric's missing ones counted.
    """
    alone = {variant: WeightedSums.of(one.values, 1.0) for variant, one in found.items()}
    told = {
        variant: design_effect(
            alone[variant],
            UnitSums(one.by_unit, one.values.count, one.missing, one.loose, requests.get(variant), one.worst),
        )
        for variant, one in found.items()
        if one.values.count > 0
    }
    effect = max((effect for effect, _ in told.values()), default=1.0)
    blind = any(
        (one.missing > 0 and variant not in requests)
        or (not one.by_unit.y.count and one.values.count > one.missing + one.loose)
        for variant, one in found.items()
    )
    return {
        variant: alone[variant].by_unit(effect, 0.0 if blind else groups)
        for variant, (_, groups) in told.items()
    }


async def units_of_all_time(store: AggregateStore, route: str) -> dict[Key, PairSums]:
    """What the values of each unit of a route come to over all time, for `periods` of a part of it. Raises
    StoreUnavailable.

    A unit's sums stand where its first value does, so those of a part would leave out units that came before: the
    busiest. Over all time units are larger than in a part, and the variance between them is rather too large.
    """
    return {
        key: one.weighted
        for key, one in joined(await store.reward_sums(route)).items()
        if one.weighted.y.count
    }


def periods(
    buckets: Iterable[RewardedBucket],
    units: Mapping[Key, PairSums] = _NO_UNITS,
    *,
    errors_since: float = 0.0,
    adjusted: Mapping[str, str] = UNADJUSTED,
    by_unit: Collection[str] = (),
) -> Periods:
    """The periods of constant propensities: what one epoch did in one bucket of time.

    A propensity is the share of the decisions that the allocation called for; where old epochs have been folded into
    one bucket, their average. Values of units that stay while a bandit moves its shares are there one by one, in the
    period of their own decision, with what `UnitSums` says of them.

    ``units``: what is known of units that the buckets do not tell: those that came before, and failures by unit
    (`policies.sequential.unit_outcomes`), which are known of decisions since ``errors_since``. ``adjusted``: metrics
    whose covariate is wanted too (`gateway.compile.plans.adjustments`). ``by_unit``: metrics whose values are of units,
    for a part of the buckets, which may not tell.
    """
    cells: dict[tuple[float, int], list[RewardedBucket]] = defaultdict(list)
    for bucket in buckets:
        cells[bucket.start, bucket.epoch].append(bucket)
    one_by_one = {
        m for cell in cells.values() for b in cell for m, r in b.rewards.items() if r.weighted.y.count
    }
    one_by_one.update(by_unit, (metric for _, metric in units))
    found: list[Period] = []
    for cell in cells.values():
        decided = sum(bucket.counts.assigned for bucket in cell)
        if decided:
            shares = {b.variant: min(b.counts.expected / decided, 1.0) for b in cell if b.counts.expected > 0}
            each = [(b.variant, m, r) for b in cell for m, r in b.rewards.items() if m != CLIENT_ERROR_RATE]
            sums = {(v, m): r.values if m in one_by_one else r.observations for v, m, r in each}
            sums |= {
                (v, m + aspect): part
                for v, m, r in each
                if (pairs := r.covariates.get(adjusted.get(m, ""))) is not None
                for aspect, part in zip(
                    of_covariate(adjusted[m]), (pairs.x, pairs.y, pairs.both), strict=True
                )
            }
            known = [b for b in cell if b.start >= errors_since]
            sums |= {(b.variant, "error_rate"): _errors(b.counts) for b in known}
            sums |= {(b.variant, CLIENT_ERROR_RATE): client_errors(b.rewards) for b in known}
            of_units = {
                (v, m): UnitSums(
                    _NO_PAIRS if (v, m) in units else r.weighted,
                    r.values.count,
                    r.missing,
                    r.loose,
                    units.get((v, "error_rate")) if r.missing else None,
                    r.worst,
                )
                for v, m, r in each
                if m in one_by_one
            }
            if not found:
                for key, pairs in units.items():
                    before = of_units.get(key, UnitSums(pairs, float(key[1] in ERROR_RATES)))
                    of_units[key] = replace(before, weighted=pairs)
            found.append(Period(shares, sums, of_units))
    return Periods(found)


def client_errors(found: Mapping[str, Rewarded]) -> RewardSums:
    """The sums of the client error rate among those of a variant's metrics: each request is an observation."""
    return found.get(CLIENT_ERROR_RATE, _NO_VALUES).values


def _errors(counts: Counts) -> RewardSums:
    errors = min(counts.errors, counts.seen)
    return RewardSums(counts.seen, errors, errors)
