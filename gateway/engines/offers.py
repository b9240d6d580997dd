"""What the nodes of an engine are offered, whatever kind of proxy they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal, Protocol

from gateway.config.document import Document
from gateway.config.route import MatchConfig
from gateway.record.decision_id import Sealer
from gateway.record.stamp import Stamp
from policies.allocation.cells import Cells, cells
from policies.allocation.model import Allocation

Kind = Literal["clusters", "routes"]
Json = dict[str, Any]
SEALS: Final = "turnout.seals"
"""Metadata of a node whose bootstrap can seal decision ids."""
_MAX_DIGITS: Final = 18
"""Of a number in a version: Python refuses to read one of thousands of digits."""


@dataclass(frozen=True, slots=True)
class InEffect:
    """The published allocation of one route."""

    epoch: int
    allocation: Allocation
    time: float
    """When it was published, in seconds since the epoch."""
    reason: str = ""
    """Why it was published: ``posterior`` if a bandit learned something."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """How the requests of one route are assigned in one epoch."""

    cells: Cells
    stamps: Mapping[str, str]
    """By variant."""
    salt: bytes
    keys: Mapping[str, bytes] = field(default_factory=dict)
    """By variant: with which nodes seal its requests; empty if they do not."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One kind of resource of one engine."""

    version: str
    body: bytes
    """The response to a poll, as JSON."""
    epochs: Mapping[str, int]
    """By route; empty for clusters."""


def version_of(revision: int, epochs: Mapping[str, int], content: bytes) -> str:
    """The version of an offer: the same on every replica, and `is_newer` than what it replaces."""
    # Epochs only grow, so each publication makes a greater sum.
    return f"{revision}.{sum(epochs.values())}.{hashlib.sha256(content).hexdigest()[:16]}"


def is_newer(version: str, other: str) -> bool:
    """Whether a version replaces ``other``, which a node has from this replica or from another one.

    A replica may be behind, or be another build that words the same revision differently.
    """
    return _order(version) > _order(other)


def _order(version: str) -> list[int]:
    # The digest has no order: of two wordings of one state, neither replaces the other.
    parts = version.split(".")[:-1]
    known = all(part.isdecimal() and len(part) <= _MAX_DIGITS for part in parts)
    return [int(part) for part in parts] if known else []


class Offers(Protocol):
    """Makes offers for one type of engine."""

    def make(
        self, document: Document, revision: int, engine: str, kind: Kind, served: Mapping[str, InEffect]
    ) -> Offer:
        """The newest resources of ``kind``. Raises OSError if a CA cannot be read."""


def assigned(sealer: Sealer, name: str, effect: InEffect, salt: bytes, sealed: bool = False) -> Assigned:
    """How the requests of the route ``name`` are assigned, with signed stamps.

    ``sealed``: whether nodes seal each request.
    """
    parts = cells(effect.allocation)
    stamps = {
        variant: sealer.stamp(Stamp(name, variant, effect.epoch, propensity, effect.time, sealed))
        for variant, propensity in parts.propensities.items()
    }
    keys = {variant: sealer.request_key(stamp) for variant, stamp in stamps.items()} if sealed else {}
    return Assigned(parts, stamps, salt, keys)


def salt_text(salt: bytes) -> str:
    """What a node puts before a unit to hash it: units are independent between routes and rollouts."""
    return blake2b(salt, digest_size=8).hexdigest() + ":"


def ordered(document: Document, names: Iterable[str]) -> list[str]:
    """Routes in the order in which a request is matched."""
    return sorted(names, key=lambda name: _specificity(document.routes[name].match))


def _specificity(match: MatchConfig) -> tuple[int, int]:
    # The longest path first, then the most conditions.
    return -len(match.path), -(bool(match.host) + bool(match.methods) + len(match.headers))
