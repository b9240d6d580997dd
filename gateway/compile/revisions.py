"""Which configuration is in force: accepted ones are kept in the store, refused ones change nothing.

A text is read and prepared (`gateway.compile.prepare`), then stored as a revision, then committed, in this order;
whatever fails leaves the last good one in force. Workers and replicas share the store: a lease lets one edit at a
time through.

A file is an edit when its text is new to the store, or when this very file said something else since. Otherwise it
is an older copy (a pod with an earlier ConfigMap, a second gateway next to the first), and the newest revision stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from gateway.clock import Clock
from gateway.compile.edit_lease import edit_lease
from gateway.compile.etags import edited, etag, matches, no_revision, of_text, older_copy, whole, with_lost
from gateway.compile.problem import Problem
from gateway.config.document import Document
from gateway.config.faults import ConfigError, Fault, render_faults
from gateway.config.load import Examined, examine
from gateway.config.permitted import permitted
from gateway.errors import TurnoutError
from gateway.state.base import Revision, RevisionEntry, unconfirmed
from gateway.state.store import DocumentStore, LeaseStore, RevisionSource

log = logging.getLogger("turnout.config")


class RevisionStore(DocumentStore, LeaseStore, Protocol):
    """Revisions, and the lease of the process that adds one."""


class Built(Protocol):
    """What a document was prepared to."""

    @property
    def document(self) -> Document: ...


B = TypeVar("B", bound=Built)

Prepare = Callable[[Examined, str], Awaitable[B]]
"""Builds what was read from the text that messages call by the given name; changes nothing. Raises ConfigError."""
Commit = Callable[[B, Revision], None]
"""Puts what was prepared in force. It only assigns."""
Tell = Callable[[str, Mapping[str, Any]], None]
"""Hears of the events ``config`` and ``config_refused``."""

FILE_AUTHOR: Final = "file"
"""The author of revisions that came from a configuration file."""


class Revisions(Generic[B]):
    """The configuration in force, its history, and the one way to change it.

    Parsing runs in a thread, so that a large file never holds up the event loop; ``commit`` is called on the loop,
    after the revision is stored.
    """

    def __init__(
        self,
        store: RevisionStore,
        *,
        clock: Clock,
        env: Mapping[str, str],
        prepare: Prepare[B],
        commit: Commit[B],
        tell: Tell,
        name: str = "the configuration file",
        origin: str = "",
        earlier: str = "",
    ) -> None:
        """``name`` is what messages call the configuration file, ``origin`` its host and path.

        ``earlier``: a text of the file whose names count if the file has a fault.
        """
        self._store = store
        self._clock = clock
        self._env = env
        self._prepare = prepare
        self._commit = commit
        self._tell = tell
        self._name = name
        self._origin = origin
        self._earlier = earlier
        self._editing = asyncio.Lock()
        """Held from preparing to committing: what is prepared is of the state that it is put into."""
        self._looked = 0
        """The newest revision when this process last looked at its file."""
        self._permitted: frozenset[str] = frozenset()
        """What a text of another author may name: what the file names."""
        self._current: tuple[Revision, Document] | None = None
        self.problem: Problem | None = None
        """The last refused file or foreign revision; None once a good one has come."""
        self.lags = False
        """Whether the newest revision can't be built here, as `refresh` last found."""

    @property
    def current(self) -> Revision:
        return self._in_force[0]

    @property
    def document(self) -> Document:
        return self._in_force[1]

    @property
    def refused(self) -> dict[str, Any] | None:
        """`problem` for everyone who may read."""
        return None if self.problem is None else self.problem.shown()

    @property
    def _in_force(self) -> tuple[Revision, Document]:
        if self._current is None:
            raise RuntimeError("no configuration is in force yet: await start() first")
        return self._current

    # The start ----------------------------------------------------------------------------------------
    async def start(self, text: str | None) -> Revision:
        """Puts into force the file's ``text`` if it is an edit, else the newest revision that can be built here.

        ``None`` where the file has a fault. Raises ConfigError when nothing can be put in force.
        """
        async with self._editing:
            history = await self._looked_at(text)
            if text is not None and edited(text, history, (FILE_AUTHOR, self._origin)):
                async with edit_lease(self._store, self._clock):
                    # Another worker may have been faster, or a store that was empty has got back what others remember.
                    while edited(text, history := await self._looked_at(text), (FILE_AUTHOR, self._origin)):
                        built = await self._built(text, FILE_AUTHOR)
                        accepted = await self._accept(text, FILE_AUTHOR, self._origin, built, self._looked)
                        if accepted is not None:
                            return accepted
            # Without the lease: many workers that start build for longer, one after the other, than one waits for it.
            found = await self._newest_built(self._store, text)
            if text is not None and found.etag != etag(text):
                log.warning("%s", older_copy(self._name, text, found, history))
            return found

    async def _looked_at(self, text: str | None) -> Sequence[RevisionEntry]:
        history = await self._store.revision_entries()
        await self._look(text, history, self._store)
        return history

    async def recover(self, text: str | None, remembered: RevisionSource) -> None:
        """Puts the newest that is ``remembered`` in force while the store is away: a changed file waits for `rejoin`.

        Raises ConfigError when nothing can be put in force.
        """
        async with self._editing:
            await self._look(text, await remembered.revision_entries(), remembered)
            found = await self._newest_built(remembered, text)
        if text is None or found.etag != etag(text):
            log.warning(
                "%s is not what is in force: whether it is an edit is decided once the store is available",
                self._name,
            )

    async def rejoin(self, text: str | None) -> None:
        """`start` of a process that has recovered: a file that can't be built is refused, and changes nothing."""
        try:
            await self.start(text)
        except ConfigError as error:
            self.refuse(error, text)

    async def _look(self, text: str | None, history: Sequence[RevisionEntry], source: RevisionSource) -> None:
        self._looked = max((r.revision for r in history[:1]), default=0)
        if text is None:
            last = next((r.revision for r in history if r.author == FILE_AUTHOR), 0)
            kept = [r.document for r in await source.revisions(limit=1, until=last) if r.revision == last]
            text = kept[0] if kept else self._earlier
        self._permitted = permitted(text, self._env)

    async def _newest_built(self, source: RevisionSource, text: str | None) -> Revision:
        """The newest revision that can be built here (``text``: the file's). Raises the newest's ConfigError."""
        refused: list[tuple[Revision, ConfigError]] = []
        page = with_lost((await source.revision_entries())[:1], await source.revisions())
        while page:
            for revision in page:
                try:
                    revision = whole(revision, text)
                    built = await self._built(revision.document, revision.author)
                except ConfigError as error:
                    refused.append((revision, error))
                    number = revision.revision
                    log.error("revision %d can't be built here, an earlier one is tried: %s", number, error)
                    continue
                found = self._put_in_force(revision, built)
                for newest, fault in refused[:1]:
                    self._refused(newest.author, newest.etag, fault)
                return found
            page = await source.revisions(until=page[-1].revision - 1)
        for _, fault in refused[:1]:
            raise fault
        raise ConfigError(
            self._name, [Fault(0, 0, "", "the file has a fault, and the store has no earlier configuration")]
        )

    # Edits --------------------------------------------------------------------------------------------
    async def check(self, text: str, author: str) -> B:
        """Builds ``text`` as `propose` would, and stores nothing. Raises `ConfigError` with every fault."""
        async with self._editing:
            return await self._built(text, author)

    async def propose(
        self, text: str, author: str, if_match: str | None, origin: str = "PUT", *, reason: str = ""
    ) -> Revision:
        """Makes ``text`` the configuration in force; its origin ends with the ``reason``.

        Raises `TurnoutError` with ``precondition_required`` (no If-Match) or ``precondition_failed``
        (it names another revision than the one in force), and `ConfigError` with every fault; then
        nothing has changed. For the text that is in force already, returns its own revision.
        """
        if reason := reason.strip():
            origin = f"{origin}: {reason}"
        if if_match is None:
            raise TurnoutError("precondition_required")
        if not self._agrees(if_match, await self._newest()):
            raise TurnoutError("precondition_failed")  # before the work of reading it
        async with self._editing:
            built = await self._built(text, author)
            async with edit_lease(self._store, self._clock):
                newest = await self._newest()
                while self._agrees(if_match, newest) and newest.etag != etag(text):
                    accepted = await self._accept(text, author, origin, built, newest.revision)
                    if accepted is not None:
                        return accepted
                    newest = await self._newest()
                if not self._agrees(if_match, newest):
                    raise TurnoutError("precondition_failed")
                if (newest.revision, newest.etag) != (self.current.revision, self.current.etag):
                    return self._put_in_force(newest.with_text(text), built)
                if self.problem is not None:
                    log.info(
                        "configuration revision %d stays in force: the fault is gone", self.current.revision
                    )
                    self.problem = None
                return self.current

    def _agrees(self, if_match: str, newest: RevisionEntry) -> bool:
        """Whether If-Match names the newest revision; or the one in force, where the newest can't be built here."""
        broken = self._is_refused(newest)
        return matches(if_match, newest.etag) or (broken and matches(if_match, self.current.etag))

    async def restore(self, revision: int, author: str, if_match: str | None, reason: str = "") -> Revision:
        """Proposes the text of an earlier revision; it becomes a new one.

        Raises:
            TurnoutError: There is no such revision (`not_found`), or `propose` refuses its text.
            ConfigError: Its text has a fault, or is damaged.
        """
        for found in await self._store.revisions(limit=1, until=revision):
            if found.revision == revision:
                origin = f"restore of revision {revision}"
                return await self.propose(whole(found).document, author, if_match, origin, reason=reason)
        raise TurnoutError("not_found", no_revision(revision))

    async def adopt_file(self, text: str) -> Revision | None:
        """Proposes the text of the changed file. None, and a `problem`, when it is refused; None too when another
        process has stored the same edit already and something newer came."""
        history = await self._store.revision_entries()
        looked, self._looked = self._looked, max((r.revision for r in history[:1]), default=0)
        known = of_text(text, history)
        if known is not None and looked < known.revision < history[0].revision:
            log.warning("%s", older_copy(self._name, text, history[0], history))
            # What is newer may name what this text does; `refresh` may have refused it a moment ago.
            self._permitted, self.problem = permitted(text, self._env), None
            return None
        try:
            expected = f"{history[0].etag}, {etag(text)}" if history else "*"
            revision = await self.propose(text, FILE_AUTHOR, expected, self._origin)
            self._permitted = permitted(text, self._env)
            return revision
        except ConfigError as error:
            self.refuse(error, text)
            return None
        except TurnoutError as error:
            if error.code != "precondition_failed":
                raise
            # While it was built, another process may have stored the same edit, and a newer one.
            self._looked = looked
            return await self.adopt_file(text)

    def refuse(self, error: ConfigError, text: str | None = None) -> None:
        """The changed file has a fault; what is in force stays."""
        self._refused(FILE_AUTHOR, "" if text is None else etag(text), error)

    def readable(self) -> None:
        """The file can be read: if it could not be before, and says what it said then, nothing else tells so."""
        if self.problem is not None and not self.problem.etag:
            log.info("configuration revision %d stays in force: the fault is gone", self.current.revision)
            self.problem = None

    async def refresh(self) -> Revision | None:
        """Puts into force what another process has stored since. None when there is nothing newer.

        What can't be built here (a variable is not set on this machine, say) becomes a `problem`.
        """
        newest = await self._newest()
        self.lags = self._is_news(newest) and self._is_refused(newest)
        if self.lags or not self._is_news(newest):
            return None
        async with self._editing:
            revision, *_ = with_lost([newest], await self._store.revisions(limit=1))
            if not self._is_news(revision):
                return None  # an edit here was faster
            try:
                built = await self._built(whole(revision).document, revision.author)
            except ConfigError as error:
                self._refused(revision.author, revision.etag, error)
                return None
            return self._put_in_force(revision, built)

    async def may_publish(self, leads: bool) -> bool:
        """Whether what the document in force asks may be published: a newer one's may be published already."""
        newest = await self._newest()
        # The leader's counts if it can't build the newest: then there is no process that can.
        return not self._is_news(newest) or (leads and self._is_refused(newest))

    def _is_refused(self, newest: RevisionEntry) -> bool:
        """Whether it was refused before, which was said."""
        return self.problem is not None and self.problem.etag == newest.etag

    def _is_news(self, newest: RevisionEntry) -> bool:
        """Another text under the number in force: a store that had lost it took up another replica's."""
        now = self.current
        return newest.revision > now.revision or (newest.revision == now.revision and newest.etag != now.etag)

    async def rebuild(self) -> None:
        """Builds the revision in force again, because files that it names have changed."""
        async with self._editing:
            revision = self.current
            try:
                built = await self._built(revision.document, revision.author)
            except ConfigError as error:
                self._refused(revision.author, revision.etag, error)
                return
            if self._is_refused(revision):
                self.problem = None  # another's stands: a text that was refused is as it was
            self._commit(built, revision)
            log.info(
                "configuration revision %d is in force with its files as they are now", revision.revision
            )

    # Steps --------------------------------------------------------------------------------------------
    async def _newest(self) -> RevisionEntry:
        return next(iter(await self._store.revision_entries(limit=1)), self.current)

    async def _built(self, text: str, author: str) -> B:
        own = author == FILE_AUTHOR
        source = self._name if own else f"the configuration by {author}"
        allowed = None if own else self._permitted
        found = await asyncio.to_thread(examine, text, env=self._env, allowed=allowed)
        built = await self._prepare(found, source)
        for warning in found.warnings:
            log.warning("%s", render_faults([warning], source=source))
        return built

    async def _accept(self, text: str, author: str, origin: str, built: B, after: int) -> Revision | None:
        """Stores the text and puts it in force; None where a newer revision than ``after`` has come."""
        history = await self._store.revision_entries()
        with unconfirmed():
            revision = await self._store.add_revision(
                time=self._clock(), author=author, etag=etag(text), document=text, origin=origin, after=after
            )
        if revision is None:
            return None
        earlier = of_text(text, history)
        if earlier is not None:
            log.warning("revision %d returns to the text of revision %d", revision.revision, earlier.revision)
        self._put_in_force(revision, built)
        self._tell("config", {"revision": revision.revision, "author": author, "origin": origin})
        return revision

    def _put_in_force(self, revision: Revision, built: B) -> Revision:
        self._commit(built, revision)
        self._current = (revision, built.document)
        self.problem = None
        log.info(
            "configuration revision %d is in force (by %s, %s)",
            revision.revision,
            revision.author,
            revision.origin or "origin unknown",
        )
        return revision

    def _refused(self, author: str, tag: str, error: ConfigError) -> None:
        self.problem = Problem(self._clock(), author, tag, error)
        log.error("the configuration stays as it is: %s", error)
        self._tell("config_refused", {"error": str(error), "author": author})
