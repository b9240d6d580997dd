"""What one process tells of its routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.clock import Clock
from gateway.state.events import Events, Told
from gateway.state.store import DocumentStore


class Heard(Events):
    """Calls ``hear`` with kind, route and data of each event that is stored with a document, but for commands."""

    def __init__(
        self,
        store: DocumentStore,
        clock: Clock,
        hear: Callable[[str, str, Mapping[str, Any]], object] = lambda *_: None,
    ) -> None:
        super().__init__(store, clock)
        self._hear = hear

    async def save(
        self,
        kind: str,
        route: str,
        text: str,
        *,
        expected: int,
        told: Iterable[Told],
        saved: Callable[[], None] = lambda: None,
    ) -> bool:
        told = list(told)
        taken = await super().save(kind, route, text, expected=expected, told=told, saved=saved)
        for what, data in told if taken else ():
            if what != "steered":
                self._hear(what, route, data)
        return taken
