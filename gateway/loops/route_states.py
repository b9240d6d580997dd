"""Where every route stands (`policies.rollout.route.RouteState`): one document of each in the store.

It is kept under compare-and-swap, so that it survives restarts, a command may come in at any replica, and two leaders
at the same time (which a lease can't rule out) can't both move it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from gateway.compile.recalled import recalled
from gateway.compile.steering import of_control
from gateway.config.document import Document
from gateway.errors import TurnoutError
from gateway.loops.route_shapes import STATE
from gateway.state import shapes
from gateway.state.base import Published, StoreUnavailable
from gateway.state.events import Events, Told
from gateway.state.store import DocumentStore, StartStore
from policies.rollout.events import Seen
from policies.rollout.route import RouteState

log = logging.getLogger("turnout.rollout")

KIND: Final = shapes.kind("route", STATE)
MAX_TRIES: Final = 5
_PARTS: Final = ("rollout", "guards", "stop")

Effects = TypeVar("Effects")
Reducer = Callable[[RouteState], tuple[RouteState, Effects]]
"""Pure: it may be called again, with the state that another process has left."""
Allocated = Mapping[str, tuple[Published, bytes]]
"""By route: its newest allocation, and the ensemble that belongs to it."""


class RouteStates:
    """The states of all routes, as this process last read or wrote them."""

    def __init__(self, store: DocumentStore, events: Events) -> None:
        self._store = store
        self._events = events
        self._versions: dict[str, int] = {}
        self._source: StartStore | None = None
        """What `start` read, if not the store."""
        self._recalled: set[str] = set()
        """Routes whose state the store has lost, and did not get back yet."""
        self.states: dict[str, RouteState] = {}

    def __getitem__(self, name: str) -> RouteState:
        return self.states.get(name) or RouteState()

    async def start(
        self, document: Document, published: Allocated, now: float, source: StartStore | None
    ) -> None:
        """`_begin` for all routes of ``document`` that have a state."""
        self._source = source
        await self._begin(document, of_control(document), published, now)

    async def meet(
        self, document: Document, in_force: Document | None, published: Allocated, now: float
    ) -> None:
        """`_begin` for those that are new to the document ``in_force``; without one, to `start`."""
        met = self.states.keys() if in_force is None else set(of_control(in_force))
        new = [name for name in of_control(document) if name not in met]
        await self._begin(document, new, published, now)

    async def _begin(
        self, document: Document, names: Sequence[str], published: Allocated, now: float
    ) -> None:
        """Read where routes stand before they are served, in the store or the source of `start`.

        One whose state is lost goes on as its newest allocation left it (`gateway.compile.recalled`).

        Raises StoreUnavailable also for a state that can't be read: without it, a promoted candidate would lose its
        share.
        """
        read = await self._read(names, self._source)
        for name in names:
            try:
                state = read(name)
            except ValueError as error:
                raise StoreUnavailable(
                    f"The state of the route {name!r} in the store can't be read ({error}). Start the version of "
                    "Turnout that wrote it."
                ) from error
            if not self._versions.get(name) and state == RouteState():
                self.states[name] = recalled(published.get(name, (None, b""))[0], document.routes[name], now)
                if self.states[name] != state:
                    self._recalled.add(name)

    async def keep_recalled(self, name: str) -> None:
        """Store what `_begin` made of a lost state, and raise an alarm, unless another process has."""
        if name not in self._recalled:
            return
        rollout, ejected = self[name].rollout, self[name].ejections.ejected
        kept = (
            f"its rollout is {rollout.status.replace('_', ' ')}, with {rollout.candidate} at {rollout.weight:.1%}"
            if rollout is not None
            else f"{', '.join(ejected)} gets no more traffic"
        )
        told = f"The store has lost the state of the route {name!r}. As its last allocation left it, {kept}."
        alarm = "alarm", {"code": "store_lost_data", "message": told}
        if not self._versions.get(name) and await self._store_again(name, [alarm]):
            log.error("%s", told)
        self._recalled.discard(name)

    async def read(self, name: str) -> RouteState:
        """What the store has now. Raises ValueError for a state that cannot be read."""
        return (await self.read_all([name]))(name)

    async def read_all(self, names: Sequence[str]) -> Callable[[str], RouteState]:
        """Read ``names`` in one call; return the function that gives the state of one of them.

        The function raises ValueError for a state that cannot be read.
        """
        return await self._read(names, None)

    async def _read(self, names: Sequence[str], source: StartStore | None) -> Callable[[str], RouteState]:
        """`read_all`, from the ``source`` of `start` if there is one."""
        before, load_all = dict(self._versions), (source or self._store).load_all
        found = await load_all(KIND, names)
        new = [name for name in names if name not in found and name not in self.states]
        parts = {kind: await load_all(kind, new) for kind in _PARTS} if new else {}
        if source is None:
            for name in names:
                await self._write_back(name, before.get(name, 0), found.get(name))

        def take(name: str) -> RouteState:
            if name in new and name not in self.states:
                self.states[name] = _joined({kind: texts.get(name) for kind, texts in parts.items()})
            return self._take(name, before.get(name, 0), found.get(name))

        return take

    async def _write_back(self, name: str, before: int, found: tuple[int, str] | None) -> None:
        """Store again what is known of a route if the store has lost it: a rollback would be forgotten at a start."""
        if found is None and before and self._versions[name] == before:
            await self._store_again(name)

    async def _store_again(self, name: str, told: Iterable[Told] = ()) -> bool:
        text = json.dumps(self[name].as_dict())
        stored = await self._events.save(KIND, name, text, expected=0, told=told)
        if stored:
            self._versions[name] = 1
        return stored

    def _take(self, name: str, before: int, found: tuple[int, str] | None) -> RouteState:
        # An update since `before` may have come further; a store that lost documents is behind both.
        if found is not None and not before <= found[0] < self._versions.get(name, 0):
            self._versions[name], self.states[name] = found[0], RouteState.from_dict(json.loads(found[1]))
        return self[name]

    def _put(self, name: str, version: int, state: RouteState) -> None:
        if version >= self._versions.get(name, 0):
            self._versions[name], self.states[name] = version, state

    async def update(
        self,
        name: str,
        reducer: Reducer[Effects],
        told: Callable[[Effects], Iterable[Told]] = lambda effects: (),
        *,
        keep: bool = False,
    ) -> tuple[RouteState, Effects]:
        """The state that ``reducer`` makes, stored if it is another one or ``keep`` says so; and its effects, for the
        caller to carry out.

        ``told``: the events that tell of the effects. They are stored with the state, since this process may not live
        to tell of it.

        Raises TurnoutError (conflict) if others keep moving the route, and whatever ``reducer`` raises.
        """
        for _ in range(MAX_TRIES):
            version, before = self._versions.get(name, 0), self[name]
            after, effects = reducer(before)
            events = list(told(effects))
            if after == before and not events and not keep:
                self._put(name, version, after)
                return after, effects
            text = json.dumps(after.as_dict())
            saved = partial(self._put, name, version + 1, after)
            if await self._events.save(KIND, name, text, expected=version, told=events, saved=saved):
                return after, effects
            await self.read(name)
        raise TurnoutError("conflict", f"The route {name!r} keeps moving; read its state and try again.")


def require_unchanged(seen: Seen, state: str, epoch: int, *, moves: bool = False) -> None:
    """Raises conflict if a route is not as it was seen. ``moves``: a step was taken after ``epoch``.

    Call it in a reducer: another process may have taken a step a moment ago.
    """
    if seen.epoch is not None and (seen.epoch != epoch or moves):
        now = f"at epoch {epoch} now" if seen.epoch != epoch else f"moving on from epoch {epoch}"
        raise TurnoutError("conflict", f"The route is {now}; read the route again.")
    if seen.state is not None and seen.state != state:
        raise TurnoutError("conflict", f"The rollout is {state} now; read the route again.")


def _joined(parts: Mapping[str, tuple[int, str] | None]) -> RouteState:
    """The state that an earlier build left in one document for each of `_PARTS`; without any, that of a new route.

    Raises ValueError for parts that cannot be read.
    """
    rollout, guards, stop = (
        shapes.read(found[1], {str: object}) if (found := parts[kind]) is not None else None
        for kind in _PARTS
    )
    state = RouteState().as_dict()
    if guards is not None:
        judgement = {key: guards.pop(key) for key in ("verdicts", "sick") if key in guards}
        state["ejections"] = guards | {"judgement": judgement or None}
    return RouteState.from_dict(state | {"rollout": rollout} | ({"stop": stop} if stop is not None else {}))
