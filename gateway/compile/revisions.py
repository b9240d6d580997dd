"""Which configuration is in force: accepted ones are kept in the store, refused ones change nothing.

A text is in force once it has been loaded, has passed the gateway's own check (compiling a snapshot)
and is stored, in this order; whatever fails leaves the last good one in force. Workers and replicas
share the store: a lease lets one edit at a time through.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.config.faults import ConfigError, Fault, render_faults
from gateway.config.files import unusable_files
from gateway.config.load import Examined, examine
from gateway.errors import TurnoutError
from gateway.state.base import Revision, Store

log = logging.getLogger("turnout.config")

Check = Callable[[Document], None]
"""Raises `ConfigError` when the gateway could not run with the document; changes nothing."""
Apply = Callable[[Document, Revision], None]
"""Puts a document into force. It has been checked, so this does not fail."""

FILE_AUTHOR: Final = "file"
"""The author of revisions that came from the configuration file."""

_FILE: Final = ("config", "file")
"""Where the store keeps the entity tag of the file's text that was accepted last."""
_LEASE: Final = "config-edit"
_LEASE_SECONDS: Final = 15.0
_PATIENCE: Final = 0.05, 400
"""Seconds between two tries for the lease, and how many: a little longer than a dead holder keeps it."""


def etag(text: str) -> str:
    """The strong entity tag of a configuration text, quotes included, as it stands in an ETag field."""
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def matches(if_match: str, current: str) -> bool:
    """Whether an If-Match field (``*`` or a list of entity tags) names ``current``. Weak tags never do."""
    tags = [tag.strip() for tag in if_match.split(",")]
    return tags == ["*"] or current in tags


@dataclass(frozen=True, slots=True)
class Problem:
    """A configuration that was refused while another stays in force."""

    time: float
    author: str
    etag: str
    """Of the refused text."""
    error: ConfigError


class Revisions:
    """The configuration in force, its history, and the one way to change it.

    Parsing runs in a thread, so that a large file never holds up the event loop; ``check`` and
    ``apply`` are called on the loop, the latter after the revision is stored.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        env: Mapping[str, str],
        check: Check,
        apply: Apply,
        name: str = "the configuration file",
    ) -> None:
        """``name`` is what messages call the configuration file."""
        self._store = store
        self._clock = clock
        self._env = env
        self._check = check
        self._apply = apply
        self._name = name
        self._current: tuple[Revision, Document] | None = None
        self.problem: Problem | None = None
        """The last refused file or foreign revision; None once a good one has come."""

    @property
    def current(self) -> Revision:
        return self._in_force[0]

    @property
    def document(self) -> Document:
        return self._in_force[1]

    @property
    def _in_force(self) -> tuple[Revision, Document]:
        if self._current is None:
            raise RuntimeError("no configuration is in force yet: await start() first")
        return self._current

    async def start(self, text: str | None) -> Revision:
        """Puts into force the file's ``text``, or what was edited by way of the API since.

        The file wins when it was changed since it was last accepted; else the newest revision, and
        if that one does not load here, the file again. Raises `ConfigError` when neither can be had.
        ``None`` where the file has a fault: then the newest revision it is.
        """
        async with self._alone():
            if text is not None and await self._accepted_file() != etag(text):
                return await self._accept(text, FILE_AUTHOR, await self._checked(text, FILE_AUTHOR))
            newest, *older = await self._store.revisions(limit=1000)
            try:
                return self._put_in_force(newest, await self._checked(newest.document, newest.author))
            except ConfigError as error:
                if text is None or newest.etag == etag(text):
                    raise
                before = next((found for found in older if found.etag == etag(text)), None)
                if before is None:
                    raise
                self.problem = Problem(self._clock(), newest.author, newest.etag, error)
                return self._put_in_force(before, await self._checked(text, FILE_AUTHOR))

    async def history(self, *, limit: int = 100) -> list[Revision]:
        """Newest first."""
        return await self._store.revisions(limit=limit)

    async def propose(self, text: str, author: str, if_match: str | None) -> Revision:
        """Makes ``text`` the configuration in force.

        Raises `TurnoutError` with ``precondition_required`` (no If-Match) or ``precondition_failed``
        (it names another revision than the one in force), and `ConfigError` with every fault; then
        nothing has changed. The text in force already is answered with its own revision.
        """
        if if_match is None:
            raise TurnoutError("precondition_required")
        if not matches(if_match, self.current.etag) and not matches(if_match, (await self._newest()).etag):
            raise TurnoutError("precondition_failed")  # before the work of reading it
        document = await self._checked(text, author)
        async with self._alone():
            newest = await self._newest()
            if not matches(if_match, newest.etag):
                raise TurnoutError("precondition_failed")
            self.problem = None
            if newest.etag == etag(text):
                return newest if newest == self.current else self._put_in_force(newest, document)
            return await self._accept(text, author, document)

    async def restore(self, revision: int, author: str, if_match: str | None) -> Revision:
        """Proposes the text of an earlier revision; it becomes a new one. `not_found` if there is none."""
        for found in await self._store.revisions(limit=max(1, self.current.revision - revision) + 1000):
            if found.revision == revision:
                return await self.propose(found.document, author, if_match)
        raise TurnoutError("not_found", f"There is no revision {revision}; see GET /-/config/history.")

    async def adopt_file(self, text: str) -> Revision | None:
        """Proposes the text of the changed file. None, and a `problem`, when it is refused."""
        try:
            return await self.propose(text, FILE_AUTHOR, "*")
        except ConfigError as error:
            self.problem = Problem(self._clock(), FILE_AUTHOR, etag(text), error)
            return None

    async def refresh(self) -> Revision | None:
        """Puts into force what another process has stored since. None when there is nothing newer.

        What does not load here (a variable is not set on this machine, say) becomes a `problem`.
        """
        newest = await self._newest()
        if not self._is_news(newest):
            return None
        if self.problem is not None and self.problem.etag == newest.etag:
            return None  # refused before, and said so
        try:
            document = await self._checked(newest.document, newest.author)
        except ConfigError as error:
            self.problem = Problem(self._clock(), newest.author, newest.etag, error)
            return None
        if not self._is_news(newest):
            return None  # an edit here was faster
        self.problem = None
        return self._put_in_force(newest, document)

    def _is_news(self, newest: Revision) -> bool:
        """Another text under the number in force: a store that had lost it took up another replica's."""
        now = self.current
        return newest.revision > now.revision or (newest.revision == now.revision and newest.etag != now.etag)

    async def _newest(self) -> Revision:
        return next(iter(await self._store.revisions(limit=1)), self.current)

    async def _checked(self, text: str, author: str) -> Document:
        source = self._name if author == FILE_AUTHOR else f"the configuration by {author}"
        found, unusable = await asyncio.to_thread(self._read, text)
        if found.document is None or unusable:
            raise ConfigError(source, (*found.faults, *unusable))
        try:
            self._check(found.document)
        except OSError as error:  # some file that is gone since
            raise ConfigError(
                source, [Fault(0, 0, "", f"the gateway can't run with this: {error}")]
            ) from error
        for warning in found.warnings:
            log.warning("%s", render_faults([warning], source=source))
        return found.document

    def _read(self, text: str) -> tuple[Examined, list[Fault]]:
        found = examine(text, env=self._env)
        return found, list(unusable_files(found.document)) if found.document is not None else []

    async def _accept(self, text: str, author: str, document: Document) -> Revision:
        revision = await self._store.add_revision(
            time=self._clock(), author=author, etag=etag(text), document=text
        )
        if author == FILE_AUTHOR:
            version, _ = await self._store.load(*_FILE) or (0, "")
            await self._store.save(*_FILE, json.dumps({"etag": etag(text)}), expected=version)
        return self._put_in_force(revision, document)

    async def _accepted_file(self) -> str:
        _, text = await self._store.load(*_FILE) or (0, '{"etag": ""}')
        return str(json.loads(text)["etag"])

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """No other edit, here or in another process that shares the store, while this is held."""
        owner = os.urandom(8).hex()
        pause, tries = _PATIENCE
        for _ in range(tries):
            if await self._store.lease(_LEASE, owner, ttl=_LEASE_SECONDS, now=self._clock()) is not None:
                break
            await asyncio.sleep(pause)
        else:
            raise TurnoutError("conflict", "Another edit of the configuration is under way; try again.")
        try:
            yield
        finally:
            await self._store.release(_LEASE, owner)

    def _put_in_force(self, revision: Revision, document: Document) -> Revision:
        self._current = (revision, document)
        self._apply(document, revision)
        return revision
