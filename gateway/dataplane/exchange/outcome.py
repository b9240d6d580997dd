"""What the record says of a request."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any

from gateway.dataplane.exchange.recovery import Recovery
from gateway.dataplane.exchange.relay import Relay
from gateway.dataplane.request.assignment import Assignment
from gateway.dataplane.request.body import Body
from gateway.dataplane.request.request import Request
from gateway.http.fields import valid_request_id


def outcome(
    request: Request,
    assignment: Assignment,
    body: Body,
    relay: Relay,
    recovery: Recovery | None,
    error: str,
) -> tuple[Any, ...]:
    """Returns the fields of the `Outcome` of a request that has just ended.

    Args:
        request: With its decision.
        assignment: Who should have served it.
        body: What the client sent.
        relay: What the client was sent.
        recovery: What became of attempts that failed; None: none did.
        error: The code of the assigned variant's failure; "" for none.
    """
    now = perf_counter()
    choice, route, head = assignment.choice, request.route, request.head
    assigned, served = assignment.variant.name, relay.served
    return (
        request.decision,
        request.wall,
        route.name,
        route.policy,
        request.snapshot.revision,
        choice.table.epoch,
        assignment.unit,
        assignment.sticky,
        assigned,
        served,
        1.0 if assignment.forced else choice.propensity,
        assignment.forced,
        relay.status,
        error,
        (served != assigned if served else recovery is not None and recovery.fixed) and relay.status != 499,
        json.dumps(recovery.records) if recovery is not None and recovery.records else "",
        relay.head_ms,
        relay.backend_ms,
        (now - head.started) * 1e3,
        body.size,
        relay.size,
        request.request_id.decode("latin-1"),
        head.principal.id,
        assignment.features,
        _recorded(relay.backend_request_id) if relay.backend_request_id else "",
    )


def _recorded(request_id: bytes) -> str:
    """A backend's request id, if it is one: it may send any bytes."""
    return request_id.decode() if valid_request_id(request_id) else ""
