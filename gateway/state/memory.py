"""The newest control-plane state that a process has seen in a shared store.

A store that has lost it gets it back from here (`gateway.state.redis.control`). A copy on the disk lets a process start
while the store is unavailable (`gateway.state.last_state`).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from gateway.state import shapes
from gateway.state.base import Published, Revision, RevisionEntry, of_stored

MAX_KNOWN_REVISIONS: Final = 20
_FORMAT: Final = 1


class Memory:
    """Secrets, allocations, documents and revisions; as a `gateway.state.store.StartStore` it can be started from."""

    def __init__(self) -> None:
        self.version = 0
        """Increases with each change."""
        self.known_secrets: dict[str, tuple[bytes, ...]] = {}
        self.known_published: dict[str, tuple[Published, bytes]] = {}
        """By route: the newest allocation and its ensemble."""
        self.known_documents: dict[tuple[str, str], tuple[int, str]] = {}
        """By kind and name: version and text."""
        self.known_revisions: dict[int, Revision] = {}

    # Remembering --------------------------------------------------------------------------------
    def remember_secrets(self, name: str, found: tuple[bytes, ...]) -> None:
        if self.known_secrets.get(name) != found:
            self.known_secrets[name] = found
            self.version += 1

    def remember_published(self, newest: Published, ensemble: bytes = b"") -> None:
        """Keep an allocation unless a newer one is known; ``ensemble`` is b"" where it was not read."""
        known, had = self.known_published.get(newest.route, (None, b""))
        if known is not None and (
            known.epoch > newest.epoch or (known.epoch == newest.epoch and not ensemble)
        ):
            return
        if (known, had) != (newest, ensemble):
            self.known_published[newest.route] = newest, ensemble
            self.version += 1

    def remember_document(self, kind: str, name: str, version: int, text: str) -> None:
        """Keep a document unless a newer version is known."""
        known = self.known_documents.get((kind, name))
        if known != (version, text) and (known is None or version >= known[0]):
            self.known_documents[kind, name] = version, text
            self.version += 1

    def remember_revisions(self, found: Iterable[Revision]) -> None:
        """Keep the newest; a replica that starts knows by the earlier ones whether its file is an edit."""
        known = self.known_revisions | {one.revision: one for one in found}
        newest = {number: known[number] for number in sorted(known)[-MAX_KNOWN_REVISIONS:]}
        if newest != self.known_revisions:
            self.known_revisions = newest
            self.version += 1

    # Starting -----------------------------------------------------------------------------------
    async def secrets(self, name: str) -> tuple[bytes, ...]:
        return self.known_secrets[name]

    async def published(self) -> dict[str, Published]:
        return {route: newest for route, (newest, _) in self.known_published.items()}

    async def ensemble(self, route: str, epoch: int) -> bytes | None:
        newest, ensemble = self.known_published[route]
        return ensemble if newest.epoch == epoch and ensemble else None

    async def load_all(self, kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        return {
            name: known for name in names if (known := self.known_documents.get((kind, name))) is not None
        }

    async def revisions(self, *, limit: int = 20, until: int | None = None) -> list[Revision]:
        numbers = [number for number in self.known_revisions if until is None or number <= until]
        return [self.known_revisions[number] for number in sorted(numbers, reverse=True)[:limit]]

    async def revision_entries(self) -> Sequence[RevisionEntry]:
        return await self.revisions()

    # On the disk --------------------------------------------------------------------------------
    def packed(self, kinds: frozenset[str]) -> dict[str, Any]:
        """Return everything as JSON; of the documents those of ``kinds``."""
        documents = [(*key, *kept) for key, kept in self.known_documents.items() if key[0] in kinds]
        return {
            "format": _FORMAT,
            "secrets": {name: [one.hex() for one in found] for name, found in self.known_secrets.items()},
            "published": [
                [asdict(newest) | {"probabilities": dict(newest.probabilities)}, b64encode(ensemble).decode()]
                for newest, ensemble in self.known_published.values()
            ],
            "documents": documents,
            "revisions": [asdict(one) for one in self.known_revisions.values()],
        }

    def unpack(self, data: dict[str, Any]) -> None:
        """Remember what was `packed`. Raises ValueError, KeyError, TypeError."""
        if data["format"] != _FORMAT:
            raise ValueError(f"its format is {data['format']!r}, and this version of Turnout reads {_FORMAT}")
        for name, found in data["secrets"].items():
            self.remember_secrets(name, tuple(map(bytes.fromhex, found)))
        for fields, ensemble in data["published"]:
            self.remember_published(shapes.published_of(fields), b64decode(ensemble))
        for kind, name, version, text in data["documents"]:
            self.remember_document(kind, name, version, text)
        self.remember_revisions(of_stored(Revision, fields) for fields in data["revisions"])
