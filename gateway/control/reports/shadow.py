"""A shadow next to the primary: its latency and its failures, from its newest responses, as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.control.reports.lift import Comparisons
from gateway.control.reports.observed import Observed
from gateway.control.reports.served import latencies
from gateway.record.events import Shadowed
from gateway.record.histogram import index
from gateway.state.base import Counts

Json = dict[str, Any]

MIN_FAILED_STATUS: Final = 500
_QUANTILES: Final = {"p50": 0.5, "p99": 0.99}


def shadow_report(shadow: str, found: Sequence[Shadowed]) -> Json:
    """Return the report of ``found``, the newest responses of a shadow.

    Latencies are of the requests that both responded to. They are compared as if independent: both sides of a request
    are slow together, so the intervals are wider than they need be.
    """
    failed = Counter(one.error or f"status {one.status}" for one in found if _failed(one))
    both = [one for one in found if not _failed(one)]
    own, primary = (_histogram(ms) for ms in ((o.latency_ms for o in both), (o.primary_ms for o in both)))
    observed = Observed({"shadow": Counts(latency=own), "primary": Counts(latency=primary)})
    compared = Comparisons(("primary", "shadow"), {}, observed)
    return {
        "shadow": shadow,
        "seen": len(found),
        "since": found[-1].time if found else None,
        "failed": [list(kind) for kind in failed.most_common()],
        "latency_ms": latencies(own, _QUANTILES),
        "primary_ms": latencies(primary, _QUANTILES),
        "latency": {q: compared.of_metric(f"latency_{q}", "shadow", "primary") for q in _QUANTILES},
    }


def _failed(one: Shadowed) -> bool:
    return one.error != "" or one.status >= MIN_FAILED_STATUS


def _histogram(values: Iterable[float]) -> dict[int, int]:
    return dict(Counter(map(index, values)))
