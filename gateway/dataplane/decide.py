"""A decision without a request to proxy (``POST /-/decide``): the same assignment, sealed and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import NamedTuple

from gateway.auth.principal import Principal
from gateway.dataplane.base import Runtime
from gateway.dataplane.request.assignment import assign_by
from gateway.dataplane.snapshot import RoutePlan
from gateway.errors import TurnoutError
from gateway.record.events import UNSEEN, Outcome
from policies.contextual.features import Scalar


class Decided(NamedTuple):
    """A variant, and the id to report its rewards with."""

    decision_id: str
    variant: str
    propensity: float
    epoch: int


def decide(
    runtime: Runtime,
    route_name: str,
    unit: str,
    features: Mapping[str, Scalar],
    principal: Principal,
    forced: str,
    request_id: str,
) -> Decided:
    """Assigns a variant and records it.

    Args:
        runtime: The process, whose snapshot has the route.
        route_name: Of a route that the principal may use.
        unit: The value that a request would carry where the route's ``unit`` says; "" for none.
        features: Values by name; those that the route does not declare are ignored.
        principal: Who asks.
        forced: The variant that the client names; "" if it names none.
        request_id: For the record.

    Raises:
        TurnoutError: The route has no unit, or takes it from the key (invalid); the client forces a variant that it
            may not, or that does not exist.
    """
    began, wall = perf_counter(), runtime.wall()
    snapshot = runtime.snapshot
    route = snapshot.routes[route_name]
    decision, table = runtime.new_decision(wall), route.table
    shares = table.common if table.extractor is None else table.shares(table.extractor.read(features))
    wanted = forced.encode("latin-1") if forced else None
    made = assign_by(
        route, shares, _key(route, unit, principal), decision, wanted, principal, runtime.random()
    )
    name = made.variant.name
    propensity = 1.0 if made.forced else made.choice.propensity
    elapsed_ms = (perf_counter() - began) * 1e3
    runtime.offer(
        Outcome(
            decision=decision,
            time=wall,
            route=route_name,
            policy=route.policy,
            revision=snapshot.revision,
            epoch=table.epoch,
            unit=made.unit,
            sticky=made.sticky,
            assigned=name,
            served="",
            propensity=propensity,
            forced=made.forced,
            status=UNSEEN,
            error="",
            fallback=False,
            attempts="",
            gateway_ms=elapsed_ms,
            backend_ms=0.0,
            total_ms=elapsed_ms,
            request_bytes=0,
            answer_bytes=0,
            request_id=request_id,
            principal=principal.id,
            features=made.features,
        )
    )
    sealed = runtime.seal(decision, made.unit, made.choice.id_prefix(name, made.forced))
    return Decided(sealed.decode("ascii"), name, propensity, table.epoch)


def _key(route: RoutePlan, unit: str, principal: Principal) -> bytes | None:
    """The sticky-unit key of the request that ``unit`` stands for; None if it has none."""
    if route.unit is None:
        if unit:
            raise TurnoutError(
                "invalid",
                f"The route {route.name!r} has no 'unit' in its configuration; add one, or send none.",
            )
        return None
    kind = route.unit.kind
    if kind == "principal":
        if unit and unit != principal.id:
            raise TurnoutError("invalid", f"The unit of {route.name!r} is the key; send no 'unit'.")
        return principal.id.encode() or None
    text = unit.strip(" \t") if kind == "header" else unit  # as HTTP does with a field's value
    return text.encode("utf-8", "surrogatepass") or None
