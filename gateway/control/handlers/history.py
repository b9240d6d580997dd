"""GET /-/routes/{route}/history and /disagreements, POST …/notes, GET …/distributions: what a person looks into."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any, Final

from starlette.responses import Response

from gateway.compile.plans import reported
from gateway.control.api_request import Ask, answer
from gateway.control.reports.distributions import distributions
from gateway.control.schemas.requests import DisagreementQuery, Note, StepsQuery
from gateway.errors import TurnoutError
from gateway.ingest.evidence import observations, rewarded
from gateway.record.events import Shadowed
from gateway.state import history

Json = dict[str, Any]

DAY_S: Final = 86_400.0
MAX_DISAGREEMENTS: Final = 2000
"""Of the newest, that are sorted and counted by kind."""
_INDEX: Final = re.compile(r"\[\d+\]")


async def read_history(ask: Ask) -> Response:
    """Steps and revisions, newest first."""
    name, limit = ask.route, ask.query(StepsQuery).limit
    found = await history.steps(ask.context.store, name)
    revisions = await ask.context.store.revisions(limit=limit)
    told = [
        {
            "id": r.revision,
            "time": r.time,
            "kind": "config",
            "data": {"revision": r.revision, "author": r.author},
        }
        for r in revisions
    ]
    merged = sorted([*found, *told], key=lambda step: step["time"], reverse=True)
    return answer({"route": name, "steps": merged[:limit]})


async def add_note(ask: Ask) -> Response:
    name, note = ask.route, await ask.body(Note)
    event = await ask.context.emit("note", name, {"text": note.text.strip(), "author": ask.author})
    return answer({"id": event.id, "time": event.time})


async def read_disagreements(ask: Ask) -> Response:
    name, query = ask.route, ask.query(DisagreementQuery)
    if query.shadow not in ask.context.document().routes[name].variants:
        raise TurnoutError("invalid", f"The route {name!r} has no variant {query.shadow!r}.")
    since = query.since if query.since is not None else ask.context.now() - DAY_S
    found = await ask.context.store.disagreements(name, query.shadow, since=since, limit=MAX_DISAGREEMENTS)
    return answer(await asyncio.to_thread(_page, found, query))


def _page(found: list[Shadowed], query: DisagreementQuery) -> Json:
    rows = [_row(one) for one in found]
    kinds = Counter(row["kind"] for row in rows)
    shown = [row for row in rows if query.kind in (None, row["kind"])]
    if query.order == "worst":
        # What has no distance (another label, another status) is worse than any distance.
        shown.sort(key=lambda row: -(float("inf") if row["difference"] is None else row["difference"]))
    begin = next((k + 1 for k, row in enumerate(shown) if row["decision"] == query.cursor), 0)
    page = shown[begin : begin + query.limit]
    more = begin + query.limit < len(shown)
    return {
        "seen": len(rows),
        "kinds": [list(kind) for kind in kinds.most_common()],
        "disagreements": page,
        "next": page[-1]["decision"] if more else None,
    }


def _row(one: Shadowed) -> Json:
    sides = _sides(one)
    return {
        "decision": one.decision.hex(),
        "time": one.time,
        "shadow": one.shadow,
        "primary": one.primary,
        "kind": _INDEX.sub("[*]", sides[0]["where"]) if sides else "unknown",
        "difference": one.difference,
        "latency_ms": one.latency_ms,
        "primary_ms": one.primary_ms,
        "sides": sides,
    }


def _sides(one: Shadowed) -> list[Json]:
    """The first differences: where, and what each side said."""
    try:
        found = json.loads(one.detail)["first"]
        return [{"where": str(s["where"]), "primary": s["primary"], "shadow": s["shadow"]} for s in found]
    except (ValueError, KeyError, TypeError):
        return []  # written by an earlier version, or cut


async def read_distributions(ask: Ask) -> Response:
    name = ask.route
    store, document = ask.context.store, ask.context.document()
    declared = reported(document, name)
    sums = observations(await rewarded(store, name, declared, now=ask.context.now()))
    counts = await store.counts(name)
    variants = tuple(document.routes[name].variants)
    return answer(await asyncio.to_thread(distributions, variants, declared, sums, counts))
