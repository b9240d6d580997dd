"""The index of request ids (`gateway.record.request_ids`): a key each, which expires by itself."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.record.request_ids import AMBIGUOUS, RequestKey
from gateway.state.redis.link import Link


async def index(link: Link, route: str, rows: Sequence[RequestKey], keep: float) -> None:
    """Adds entries; an id that two decisions share becomes ambiguous."""
    base, milliseconds = link.of_route(route), max(1, int(keep * 1000))
    sets = [(f"{base}:id:{row.key.hex()}", row.decision) for row in rows]
    commands: list[tuple[object, ...]] = []
    for key, decision in sets:
        commands += (("SET", key, decision, "NX", "PX", milliseconds), ("GET", key))
    known = (await link.commands(commands))[1::2]
    shared = [key for (key, decision), one in zip(sets, known, strict=True) if one != decision]
    await link.commands([("SET", key, AMBIGUOUS, "PX", milliseconds) for key in shared])


async def find(link: Link, route: str, keys: Sequence[bytes]) -> list[bytes | None]:
    base = link.of_route(route)
    found: list[bytes | None] = await link.commands([("GET", f"{base}:id:{key.hex()}") for key in keys])
    return found
