"""What the record says of a request."""

from __future__ import annotations

import json
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.record.events import Outcome

if TYPE_CHECKING:
    from gateway.dataplane.exchange.exchange import Exchange


def outcome(x: Exchange) -> Outcome:
    """The outcome of a request that has just ended."""
    now = perf_counter()
    choice, route = x.choice, x.route
    assigned = choice.variant.name
    # Twice as fast as calling the class, which goes through Python.
    return tuple.__new__(
        Outcome,
        (
            x.decision,
            x.wall,
            route.name,
            route.policy,
            x.revision,
            choice.table.epoch,
            x.unit,
            x.sticky,
            assigned,
            x.served,
            1.0 if x.forced else choice.propensity,
            x.forced,
            x.status,
            x.error,
            (x.served != assigned if x.served else x.fixed) and x.status != 499,
            json.dumps(x.attempts) if x.attempts is not None else "",
            x.head_ms,
            x.backend_ms,
            (now - x.started) * 1e3,
            x.body_bytes,
            x.answer_bytes,
            x.request_id.decode("latin-1"),
            x.principal.id,
            x.features,
        ),
    )
