"""GET /-/routes and below: how the variants compare, now and over time; and the steering of rollouts."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import Response

from gateway.compile.plans import reported
from gateway.control.api_request import Ask, answer, zipped
from gateway.control.reports.series import MOST, ROLLING, series, step_for, steps
from gateway.control.schemas.requests import RolloutStep, RouteQuery, SeriesQuery
from gateway.errors import TurnoutError
from gateway.ingest.evidence import of_buckets, rewarded
from gateway.state.base import StoreUnavailable

HOUR = 3600.0


async def list_routes(ask: Ask) -> Response:
    shown = await ask.desk.summaries(ask.principal.serves)
    config = {"revision": ask.context.revision().revision, "refused": ask.context.refused_config()}
    return answer({"routes": list(shown.values()), "config": config})


async def read_route(ask: Ask) -> Response:
    name, query = ask.route, ask.query(RouteQuery)
    variants = ask.context.document().routes[name].variants
    if query.baseline is not None and query.baseline not in variants:
        raise TurnoutError(
            "invalid", f"There is no variant {query.baseline!r}; write one of {', '.join(variants)}."
        )
    return answer(await ask.desk.report(name, query.since, query.epoch, query.baseline))


async def read_series(ask: Ask) -> Response:
    name, query = ask.route, ask.query(SeriesQuery)
    store, document = ask.context.store, ask.context.document()
    until = query.until if query.until is not None else ask.context.now()
    since = query.since if query.since is not None else until - HOUR
    if since >= until:
        raise TurnoutError("invalid", "'since' is not before 'until'; write an earlier 'since'.")
    step = step_for(until - since, query.step)
    if (until - since) / step > MOST:
        raise TurnoutError(
            "invalid", f"That is more than {MOST} buckets; write a longer 'step' or a later 'since'."
        )
    window = max(step, (until - since) / ROLLING)
    start = since // step * step
    if query.after is not None:  # the rolling figures reach back by their window
        start = max(start, (query.after - window) // step * step)
    buckets = await store.series(name, since=start, until=until, step=step)
    variants, declared = tuple(document.routes[name].variants), reported(document, name)
    now = ask.context.now()
    before = await rewarded(store, name, declared, now=now, until=start)
    history = await store.allocation_history(name) if query.allocations else []

    def made() -> Response:
        found = series(variants, declared, of_buckets(buckets, declared, now=now, step=step), before, window)
        if query.after is not None:
            found = [bucket for bucket in found if bucket["start"] >= query.after]
        return zipped(
            ask,
            {
                "route": name,
                "since": since,
                "until": until,
                "step": step,
                "window": window,
                "buckets": found,
                "allocations": steps(history, since, until) if query.allocations else None,
            },
        )

    return await asyncio.to_thread(made)


async def steer(ask: Ask) -> Response:
    name, step = ask.route, await ask.body(RolloutStep)
    if (step.action == "set") != (step.weight is not None):
        raise TurnoutError("invalid", "'weight' and the action 'set' need each other; write both or neither.")
    await _unmoved(ask, name, step)
    state = await ask.context.rollout(name, step.action, step.weight, ask.author, step.reason.strip())
    trail = {"action": step.action, "weight": step.weight, "reason": step.reason.strip()} | ask.caller
    with contextlib.suppress(StoreUnavailable):  # it is done: the trail must not make it look undone
        await ask.context.emit("steered", name, trail)
    return answer(dict(state))


async def _unmoved(ask: Ask, name: str, step: RolloutStep) -> None:
    """Raises conflict if the route is not as the caller saw it."""
    epoch = ask.desk.live(name).epoch
    if step.if_epoch is not None and step.if_epoch != epoch:
        raise TurnoutError("conflict", f"The route is at epoch {epoch} by now; look at it again.")
    state = (await ask.context.rollout_state(name) or ask.context.stop_state(name) or {}).get("state")
    if step.if_state is not None and step.if_state != state:
        raise TurnoutError("conflict", f"The rollout is {state} by now; look at it again.")
