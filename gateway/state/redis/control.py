"""What the control plane keeps: secrets, allocations, documents, revisions, events, leases.

A Redis can lose what it acknowledged: it is restarted without its files, restored from a backup, or failed over to a
replica that lagged. Versions and numbers only grow, so one that is lower than this process has seen is the sign of it,
and each process then writes back, under the old number, the newest that it remembers. Replicas that went on and those
that started on the empty store end up with the same: the highest number.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from gateway.state.base import (
    MAX_CLOCK_SKEW_S,
    MAX_REVISION_TEXTS,
    MAX_REVISIONS,
    Event,
    NewEvent,
    Published,
    Revision,
    RevisionEntry,
)
from gateway.state.memory import Memory
from gateway.state.redis.codec import (
    document_field,
    pack_published,
    revision_columns,
    revision_entry,
    revision_row,
    stored_document,
    stored_event,
    unpack_published,
)
from gateway.state.redis.link import Link
from gateway.state.redis.script import Script

T = TypeVar("T")
log = logging.getLogger("turnout.store")

_ADD_EVENT: Final = Script.load("add_event")
_ADD_REVISION: Final = Script.load("add_revision")
_LEASE: Final = Script.load("lease")
_MEND_NUMBER: Final = Script.load("mend_number")
_PUBLISH: Final = Script.load("publish")
_RELEASE: Final = Script.load("release")
_REMOVE_DAMAGED: Final = Script.load("remove_damaged")
_RESTORE_REVISIONS: Final = Script.load("restore_revisions")
_SAVE: Final = Script.load("save")
_SECRETS: Final = Script.load("secrets")

_CURRENT: Final = ""
"""What a publication expects that follows the newest."""
_RESTORED: Final = "restored"
_MAX_DIGITS: Final = 15  # of a number that scripts can compare


class Control:
    """The methods of a `RedisStore` that need no list of routes."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.memory = Memory()
        self._event = 0
        self._changes = 0
        self._changes_lost = 0
        """How far the store's own count of changes has fallen behind ours."""
        self._losses: list[str] = []
        """What the store has lost, until an alarm says so."""

    def _tell(self, what: str, instead: str = "it was written back from memory") -> None:
        log.warning("the store %s has lost %s; %s", self._link.shown, what, instead)
        self._losses.append(f"{what} ({instead})")

    # Damage -------------------------------------------------------------------------------------
    async def _readable(
        self, base: str, key: str, field: str | int, row: bytes | None, read: Callable[[bytes], T], what: str
    ) -> T | None:
        """What ``read`` makes of the value of a hash; None without one. A damaged one is removed, and reported."""
        await asyncio.sleep(0)  # requests come in between: a thousand allocations take 30 ms
        try:
            return None if row is None else read(row)
        except ValueError as error:
            log.error("%s is damaged and was removed from the store %s: %s", what, self._link.shown, error)
            self._losses.append(f"{what} (it was damaged and was removed)")
            await self._link.run(_REMOVE_DAMAGED, base, key, field, row)
            return None

    async def _number(self, base: str, name: str, value: bytes | None, numbered: str = "") -> int:
        """A number, 0 without one. A damaged one becomes the highest of the hash ``numbered``, and is reported."""
        if value is None or (value.isdigit() and len(value) <= _MAX_DIGITS):
            return int(value or 0)
        mended = int(await self._link.run(_MEND_NUMBER, base, name, numbered))
        self._tell(f"the number {base}:{name}", f"it was damaged and is now {mended}")
        return mended

    # Secrets and changes ------------------------------------------------------------------------
    async def secrets(self, name: str) -> tuple[bytes, ...]:
        known = self.memory.known_secrets.get(name, ())
        found = tuple(await self._link.run(_SECRETS, self._link.of_all, name, os.urandom(32), *known))
        self.memory.remember_secrets(name, found)
        return found

    async def _count_changes(self, routes: Sequence[str]) -> tuple[int, bool]:
        """The number of changes, and whether the store has lost some that it had acknowledged.

        Each route counts for itself, because its keys may be on another node.
        """
        bases = [self._link.of_all, *map(self._link.of_route, routes)]
        keys = [f"{self._link.of_all}:event", *(f"{base}:changed" for base in bases)]
        event, *counts = await self._link.commands([("GET", key) for key in keys])
        # Each process knows it, for a store that loses it: webhooks look behind the last number that they have sent.
        if event is not None and event.isdigit() and len(event) <= _MAX_DIGITS:
            self._event = max(self._event, int(event))
        pairs = zip(bases, counts, strict=True)
        total = sum([await self._number(base, "changed", count) for base, count in pairs])
        total += self._changes_lost
        lost = total < self._changes
        if lost:
            self._changes_lost += self._changes - total + 1  # callers see the count grow, and so look again
            total = self._changes + 1
            await self._restore()
        elif self.memory.known_revisions:
            await self._newest_revision()  # one hash may be evicted alone
        self._changes = total
        return total, lost

    async def _restore(self) -> None:
        """Writes back all that is remembered, before others ask for it."""
        for secret in tuple(self.memory.known_secrets):
            await self.secrets(secret)
        await self._newest_revision()
        for kind, name in tuple(self.memory.known_documents):
            await self.load_all(kind, (name,))
        await self._published(sorted(self.memory.known_published))

    # Allocations --------------------------------------------------------------------------------
    async def publish(self, allocation: Published, ensemble: bytes = b"") -> bool:
        if not await self._publish(allocation, ensemble, _CURRENT):
            return False
        self.memory.remember_published(allocation, ensemble)
        return True

    async def _publish(self, allocation: Published, ensemble: bytes, mode: str) -> bool:
        base, row = self._link.of_route(allocation.route), pack_published(allocation)
        return bool(await self._link.run(_PUBLISH, base, allocation.epoch, row, ensemble, mode))

    async def ensemble(self, route: str, epoch: int) -> bytes | None:
        found: bytes | None = await self._link.command(
            "HGET", f"{self._link.of_route(route)}:ensembles", epoch
        )
        newest, _ = self.memory.known_published.get(route, (None, b""))
        if found is not None and newest is not None and newest.epoch == epoch:
            self.memory.remember_published(newest, found)
        return found

    async def _published(self, routes: Sequence[str]) -> dict[str, Published]:
        found, newest_of = {}, await self._newest_of_each(routes)
        for route in routes:
            newest = newest_of.get(route)
            known, ensemble = self.memory.known_published.get(route, (None, b""))
            if known is not None and (newest is None or newest.epoch < known.epoch):
                if await self._publish(known, ensemble, _RESTORED):
                    self._tell(f"the allocation of {route!r}, epoch {known.epoch}")
                newest = (await self._newest_of_each([route])).get(route)
            if newest is not None:
                found[route] = newest
                self.memory.remember_published(newest)
        return found

    async def _newest_of_each(self, routes: Sequence[str]) -> dict[str, Published]:
        """By route, in two round trips."""
        bases = [self._link.of_route(route) for route in routes]
        epochs = await self._link.commands([("GET", f"{base}:epoch") for base in bases])
        wanted = [
            (route, base, await self._number(base, "epoch", epoch, "allocations"))
            for route, base, epoch in zip(routes, bases, epochs, strict=True)
            if epoch is not None
        ]
        rows = await self._link.commands(
            [("HGET", f"{base}:allocations", epoch) for _, base, epoch in wanted]
        )
        found = {}
        for (route, _, epoch), row in zip(wanted, rows, strict=True):
            if newest := await self._allocation(route, epoch, row) or await self._instead(route, epoch):
                found[route] = newest
        return found

    async def _allocation(self, route: str, epoch: int, row: bytes | None) -> Published | None:
        what, base = f"allocation {epoch} of the route {route}", self._link.of_route(route)
        return await self._readable(base, "allocations", epoch, row, unpack_published, what)

    async def _instead(self, route: str, epoch: int) -> Published | None:
        """What is in force if the newest allocation was damaged: what this process knows, else the last one before."""
        known, ensemble = self.memory.known_published.get(route, (None, b""))
        if known is not None and known.epoch == epoch:
            await self._publish(known, ensemble, _RESTORED)
            return known
        history = await self._earlier(route, epoch - 1, limit=1000)
        return replace(history[-1], epoch=epoch) if history else None

    async def allocation(self, route: str, epoch: int) -> Published | None:
        row = await self._link.command("HGET", f"{self._link.of_route(route)}:allocations", epoch)
        return await self._allocation(route, epoch, row)

    async def allocation_history(self, route: str, *, limit: int = 1000) -> list[Published]:
        base = self._link.of_route(route)
        number = await self._link.command("GET", f"{base}:epoch")
        newest = await self._number(base, "epoch", number, "allocations")
        return await self._earlier(route, newest, limit=limit)

    async def _earlier(self, route: str, newest: int, *, limit: int) -> list[Published]:
        """The allocations of ``limit`` epochs up to ``newest``, oldest first."""
        epochs = range(max(newest - limit, 0) + 1, newest + 1)
        key = f"{self._link.of_route(route)}:allocations"
        rows = await self._link.command("HMGET", key, *epochs) if epochs else []
        found = [await self._allocation(route, epoch, row) for epoch, row in zip(epochs, rows, strict=True)]
        return [one for one in found if one is not None]

    # Documents ----------------------------------------------------------------------------------
    async def load(self, kind: str, name: str) -> tuple[int, str] | None:
        return (await self.load_all(kind, (name,))).get(name)

    async def load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        found = await self._load_all(kind, names)
        if lost := [name for name in names if self._behind(kind, name, found.get(name))]:
            for name in lost:
                version, text = self.memory.known_documents[kind, name]
                arguments = (document_field(kind, name), version - 1, text, _RESTORED, self._event)
                if await self._link.run(_SAVE, self._link.of_all, *arguments) is not None:
                    self._tell(f"the document {kind} {name!r}, version {version}")
            found |= await self._load_all(kind, lost)
        for name, (version, text) in found.items():
            self.memory.remember_document(kind, name, version, text)
        return found

    def _behind(self, kind: str, name: str, found: tuple[int, str] | None) -> bool:
        """Whether the server has lost a version that was seen here."""
        known = self.memory.known_documents.get((kind, name))
        return known is not None and (found is None or found[0] < known[0])

    async def _load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        fields = [document_field(kind, name) for name in names]
        rows = await self._link.command("HMGET", f"{self._link.of_all}:documents", *fields) if fields else []
        found = {}
        for name, field, row in zip(names, fields, rows, strict=True):
            readable = partial(stored_document, kind, self.memory.known_documents.get((kind, name)))
            what = f"the document {kind} {name!r}"
            if document := await self._readable(self._link.of_all, "documents", field, row, readable, what):
                found[name] = document
        return found

    async def save(self, kind: str, name: str, text: str, *, expected: int) -> bool:
        return await self.save_with_events(kind, name, text, expected=expected, events=()) is not None

    async def save_with_events(
        self, kind: str, name: str, text: str, *, expected: int, events: Sequence[NewEvent]
    ) -> list[Event] | None:
        added = [part for one in events for part in (repr(one.time), one.kind, one.route, one.data)]
        arguments = (document_field(kind, name), expected, text, _CURRENT, self._event, *added)
        numbers = await self._link.run(_SAVE, self._link.of_all, *arguments)
        if numbers is None:
            return None
        self.memory.remember_document(kind, name, expected + 1, text)
        self._event = max(self._event, *numbers, 0)
        return [Event(number, **asdict(one)) for number, one in zip(numbers, events, strict=True)]

    # Revisions and events -----------------------------------------------------------------------
    async def add_revision(
        self,
        *,
        time: float,
        author: str,
        etag: str,
        document: str,
        origin: str = "",
        after: int | None = None,
    ) -> Revision | None:
        await self._newest_revision()  # so that the number is above all that were ever seen here
        added = Revision(0, time, author, etag, origin, document=document)
        row = revision_row(added)
        limits = MAX_REVISION_TEXTS, MAX_REVISIONS
        arguments = json.dumps(row), json.dumps(revision_entry(row)), *limits, "" if after is None else after
        number = int(await self._link.run(_ADD_REVISION, self._link.of_all, *arguments))
        if not number:
            return None
        added = replace(added, revision=number)
        self.memory.remember_revisions([added])
        return added

    async def revisions(self, *, limit: int = 20, until: int | None = None) -> list[Revision]:
        newest = await self._newest_revision() if until is None else until
        rows = await self._rows("revisions", range(newest, max(newest - limit, 0), -1))
        found = [
            Revision(number, time, author, etag, *origin, document=document)
            for number, (time, author, etag, document, *origin) in rows.items()
        ]
        if newest and not found and until is None and limit > 1:
            self._tell("the texts of all revisions of the configuration", "the configuration file is used")
        self.memory.remember_revisions(found)
        return found

    async def revision_entries(self, *, limit: int = MAX_REVISIONS) -> list[RevisionEntry]:
        newest = await self._newest_revision()
        numbers = range(newest, max(newest - limit, 0), -1)
        rows = await self._rows("revision_entries", numbers)
        rows |= await self._index([number for number in numbers if number not in rows])
        return [RevisionEntry(number, *rows[number]) for number in numbers if number in rows]

    async def _index(self, numbers: Sequence[int]) -> dict[int, list[Any]]:
        """Add the entries of revisions that an earlier release stored, or that were written back; return them."""
        key, rows = f"{self._link.of_all}:revision_entries", await self._rows("revisions", numbers)
        entries = {number: revision_entry(row) for number, row in rows.items()}
        if entries:
            await self._link.commands(
                [("HSETNX", key, number, json.dumps(entry)) for number, entry in entries.items()]
            )
        return entries

    async def _rows(self, name: str, numbers: Sequence[int]) -> dict[int, list[Any]]:
        """By number, the rows of those of a hash that exist."""
        rows = await self._link.command("HMGET", f"{self._link.of_all}:{name}", *numbers) if numbers else []
        read = partial(revision_columns, 4 if name == "revisions" else 3)
        found = {}
        for number, row in zip(numbers, rows, strict=True):
            what = f"revision {number} of the configuration"
            columns = await self._readable(self._link.of_all, name, number, row, read, what)
            if columns is not None:
                found[number] = columns
        return found

    async def _newest_revision(self) -> int:
        """The newest number; a store that has lost it gets back what is remembered."""
        key, known = f"{self._link.of_all}:revision", self.memory.known_revisions
        newest = max(known, default=0)
        number, kept = await self._link.commands(
            [("GET", key), ("HEXISTS", f"{self._link.of_all}:revisions", newest)]
        )
        stored = await self._number(self._link.of_all, "revision", number, "revisions")
        if stored >= newest and (kept or not newest or stored - newest >= MAX_REVISION_TEXTS):
            return stored
        pairs: list[Any] = []
        for one in sorted(known, reverse=True):
            pairs += (one, json.dumps(revision_row(known[one])))
        if await self._link.run(_RESTORE_REVISIONS, self._link.of_all, *pairs):
            made = datetime.fromtimestamp(known[newest].time, UTC).isoformat(" ", "seconds")
            self._tell(f"configuration revision {newest} of {made}")
        return int(await self._link.command("GET", key) or 0)

    async def add_event(self, *, time: float, kind: str, route: str, data: str) -> Event:
        arguments = (self._event, repr(time), kind, route, data)
        number = int(await self._link.run(_ADD_EVENT, self._link.of_all, *arguments))
        self._event = max(self._event, number)
        return Event(number, time, kind, route, data)

    async def events(self, *, after: int = 0, limit: int = 1000, route: str | None = None) -> list[Event]:
        found: list[Event] = []
        while len(found) < limit:
            key = f"{self._link.of_all}:events"
            entries = await self._link.command("XRANGE", key, f"{after + 1}-0", "+", "COUNT", limit)
            made = [stored_event(number, fields) for number, fields in entries]
            found += [event for event in made if route is None or event.route == route]
            if made:
                self._event = max(self._event, made[-1].id)
            if len(made) < limit:
                break
            after = made[-1].id
        return found[:limit]

    # Leadership ---------------------------------------------------------------------------------
    async def lease(self, name: str, owner: str, *, ttl: float, now: float) -> int | None:
        arguments = (name, owner, repr(now + ttl), repr(now), repr(now + ttl + MAX_CLOCK_SKEW_S))
        return int(await self._link.run(_LEASE, self._link.of_all, *arguments)) or None

    async def release(self, name: str, owner: str) -> None:
        await self._link.run(_RELEASE, self._link.of_all, name, owner)
