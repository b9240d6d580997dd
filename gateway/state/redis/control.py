"""What the control plane keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from gateway.state.base import Event, Published, Revision
from gateway.state.redis import scripts
from gateway.state.redis.codec import pack_published, unpack_published
from gateway.state.redis.link import Link


async def secret(link: Link, name: str) -> bytes:
    key = f"{link.of_all}:secret:{name}"
    await link.command("SET", key, os.urandom(32), "NX")
    found: bytes = await link.command("GET", key)
    return found


async def changed(link: Link, routes: Sequence[str]) -> int:
    """Each route counts for itself, because its keys may live elsewhere; all counts only grow."""
    bases = [link.of_all, *map(link.of_route, routes)]
    return sum(
        int(count or 0) for count in await link.commands([("GET", f"{base}:changed") for base in bases])
    )


# Allocations --------------------------------------------------------------------------------------
async def publish(link: Link, allocation: Published, ensemble: bytes) -> bool:
    base = link.of_route(allocation.route)
    row = pack_published(allocation)
    return bool(await link.run(scripts.PUBLISH, base, allocation.epoch, row, ensemble))


async def ensemble(link: Link, route: str, epoch: int) -> bytes | None:
    found: bytes | None = await link.command("HGET", f"{link.of_route(route)}:ensembles", epoch)
    return found


async def published(link: Link, routes: Sequence[str]) -> dict[str, Published]:
    found = {}
    for route in routes:
        epoch = await link.command("GET", f"{link.of_route(route)}:epoch")
        newest = None if epoch is None else await of_epoch(link, route, int(epoch))
        if newest is not None:
            found[route] = newest
    return found


async def of_epoch(link: Link, route: str, epoch: int) -> Published | None:
    row = await link.command("HGET", f"{link.of_route(route)}:allocations", epoch)
    return None if row is None else unpack_published(row)


async def history(link: Link, route: str, limit: int) -> list[Published]:
    """The newest ``limit`` of them, oldest first."""
    key = f"{link.of_route(route)}:allocations"
    epochs = sorted(map(int, await link.command("HKEYS", key)))[-limit:]
    rows = await link.command("HMGET", key, *epochs) if epochs else []
    return [unpack_published(row) for row in rows if row is not None]


# Documents ----------------------------------------------------------------------------------------
def _document(kind: str, name: str) -> str:
    return f"{kind}\0{name}"


async def load(link: Link, kind: str, name: str) -> tuple[int, str] | None:
    row = await link.command("HGET", f"{link.of_all}:documents", _document(kind, name))
    if row is None:
        return None
    version, _, text = row.decode().partition("\n")
    return int(version), text


async def save(link: Link, kind: str, name: str, text: str, expected: int) -> bool:
    return bool(await link.run(scripts.SAVE, link.of_all, _document(kind, name), expected, text))


# Revisions and events -----------------------------------------------------------------------------
async def add_revision(link: Link, time: float, author: str, etag: str, document: str) -> Revision:
    number = await link.run(scripts.ADD_REVISION, link.of_all, json.dumps([time, author, etag, document]))
    return Revision(int(number), time, author, etag, document)


async def revisions(link: Link, limit: int) -> list[Revision]:
    newest = int(await link.command("GET", f"{link.of_all}:revision") or 0)
    numbers = range(newest, max(newest - limit, 0), -1)
    rows = await link.command("HMGET", f"{link.of_all}:revisions", *numbers) if numbers else []
    return [Revision(n, *json.loads(row)) for n, row in zip(numbers, rows, strict=True) if row is not None]


async def add_event(link: Link, time: float, kind: str, route: str, data: str) -> Event:
    number = await link.run(scripts.ADD_EVENT, link.of_all, repr(time), kind, route, data)
    return Event(int(number), time, kind, route, data)


async def events(link: Link, after: int, limit: int, route: str | None) -> list[Event]:
    found: list[Event] = []
    while len(found) < limit:
        entries = await link.command("XRANGE", f"{link.of_all}:events", f"{after + 1}-0", "+", "COUNT", limit)
        made = [_event(number, fields) for number, fields in entries]
        found += [event for event in made if route is None or event.route == route]
        if len(made) < limit:
            break
        after = made[-1].id
    return found[:limit]


def _event(number: bytes, fields: Any) -> Event:
    given = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    text = {key.decode(): value.decode() for key, value in given.items()}
    return Event(int(number.split(b"-")[0]), float(text["time"]), text["kind"], text["route"], text["data"])


# Leadership ---------------------------------------------------------------------------------------
async def lease(link: Link, name: str, owner: str, ttl: float, now: float) -> int | None:
    return int(await link.run(scripts.LEASE, link.of_all, name, owner, repr(now + ttl), repr(now))) or None


async def release(link: Link, name: str, owner: str) -> None:
    await link.run(scripts.RELEASE, link.of_all, name, owner)
