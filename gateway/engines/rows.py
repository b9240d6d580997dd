"""From the rows that a node logs, one for each request, to outcomes."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.config.document import Document
from gateway.config.route import RouteConfig
from gateway.engines.otlp import bodies
from gateway.record.decision_id import BadDecisionId
from gateway.record.events import Outcome
from gateway.record.stamp import Stamp, StampedRequest, parsed_request
from policies.allocation.bucketing import unit_hash

ROWS_PATH: Final = "/-/engines/rows"
SEPARATOR: Final = "\x1f"
"""Between the fields of a row: no header can hold it."""
_VARIANT: Final = re.compile(r"-|[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_NUMBER: Final = 10**15
"""A greater one is none that a node counts, and the store holds 64 bits."""
MAX_AHEAD_S: Final = 60.0
"""How far a node's clock may be ahead."""
ABSENT: Final = "-"
"""What Envoy writes for a field without a value."""

BY_FLAG: Final[dict[str, str]] = {
    "DC": "client_left",
    "UF": "backend_connect",
    "UH": "backend_unhealthy",
    "UO": "backend_overloaded",
    "UC": "backend_reset",
    "UR": "backend_reset",
    "LR": "backend_reset",
    "UPE": "backend_protocol",
    "UT": "backend_first_byte_timeout",
    "URX": "backend_status",
    "SI": "backend_idle_timeout",
    "DT": "backend_total_timeout",
    "UMSDR": "backend_total_timeout",
}
"""Envoy's response flags that say what failed → the gateway's error."""
BY_FLAG.update({error: error for error in (*BY_FLAG.values(), "backend_truncated")})  # agents know its names

RESPONDED: Final = frozenset(("", "backend_status", "client_left"))
"""Errors with which a variant's response, or a part of it, reached the client."""

_new: Final = tuple.__new__
"""Makes an outcome at half the cost of `Outcome._make`, which checks the length."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one export."""

    node: str
    outcomes: list[Outcome]
    refused: int
    """Rows that no node of this fleet can have written: forged ids, other fleets' routes, wrong fields."""


def rows(
    body: bytes, engine: str, document: Document, revision: int, stamp_of: Callable[[str], Stamp], now: float
) -> Rows:
    """The outcomes of an OTLP export. ``stamp_of`` opens the stamps of decision ids; ``now`` is in seconds.

    Raises ValueError if ``body`` is not an OTLP export of logs.
    """
    return StampReader(document.engine_routes(engine), revision, stamp_of).read(list(bodies(body)), now)


class Shared(NamedTuple):
    """What all rows with one stamp share."""

    stamp: Stamp
    policy: str
    salt: bytes
    forced: bool = False
    """Whether the propensity is unknown."""


class Result(NamedTuple):
    """What rows with the same text for it share."""

    served: str
    status: int
    error: str
    rescued: bool
    retried: bool


class Reader(ABC):
    """Reads the rows of one export, of which thousands share a few results."""

    def __init__(self, revision: int) -> None:
        self._revision = revision
        self._results: dict[tuple[str, ...], Result | None] = {}

    @abstractmethod
    def decision(self, text: str, route: str) -> tuple[Shared, StampedRequest] | None:
        """The decision that the first two fields of a row name; None if no node can have written them."""

    def read(self, texts: Sequence[tuple[str, str]], now: float) -> Rows:
        """The outcomes of rows, each with the name of its node. ``now`` is in seconds."""
        made = [self.outcome(text) for _, text in texts]
        outcomes = [outcome for outcome in made if outcome is not None and outcome.time - now <= MAX_AHEAD_S]
        return Rows(texts[0][0] if texts else "", outcomes, len(made) - len(outcomes))

    def outcome(self, text: str) -> Outcome | None:
        """The outcome of a row; None if no node can have written it."""
        try:
            # The order of `envoy.bootstrap.ROW`, a character for each byte.
            (
                decision, route, server, status_text, flags, attempts, total, gateway, backend, received, sent,
                address, request_id, unit,
            ) = text.split(SEPARATOR)  # fmt: skip
            found = self.decision(decision, route)
            if found is None:
                return None
            shared, made = found
            facts, policy, salt, forced = shared
            key = facts.assigned, server, status_text, flags, attempts
            if key not in self._results:
                self._results[key] = _result(*key)
            result = self._results[key]
            if result is None:
                return None
            served, status, error, rescued, retried = result
            request_bytes, response_bytes = int(received), int(sent)
            total_us = int(total) if total.isdigit() else 0
            gateway_us = int(gateway) if gateway.isdigit() else total_us
            backend_us = int(backend) if backend.isdigit() else 0
            if max(request_bytes, response_bytes, total_us, gateway_us, backend_us) >= _MAX_NUMBER:
                return None
            sticky = unit not in ("", ABSENT)
            return _new(
                Outcome,
                (
                    made.decision,
                    made.decided,
                    facts.route,
                    policy,
                    self._revision,
                    facts.epoch,
                    unit_hash(salt, unit.encode("latin-1"))
                    if sticky
                    else int.from_bytes(made.decision[8:], "big"),
                    sticky,
                    facts.assigned,
                    served,
                    facts.propensity,
                    forced,
                    status,
                    error,
                    rescued,
                    json.dumps([[served, address[:256], status, total_us / 1000.0]]) if retried else "",
                    gateway_us / 1000.0,
                    backend_us / 1000.0,
                    total_us / 1000.0,
                    request_bytes,
                    response_bytes,
                    request_id
                    if 2 <= len(request_id) <= 128
                    and request_id.isascii()
                    and request_id.isprintable()
                    and " " not in request_id
                    else "",
                    "",  # principal
                    "",  # features
                    "",  # backend_request_id
                ),
            )
        except ValueError:
            return None


class StampReader(Reader):
    """Reads rows whose decision ids are stamped."""

    def __init__(
        self, routes: Mapping[str, RouteConfig], revision: int, stamp_of: Callable[[str], Stamp]
    ) -> None:
        super().__init__(revision)
        self._routes = routes
        self._stamp_of = stamp_of
        self._shared: dict[str, Shared | None] = {}

    def decision(self, text: str, route: str) -> tuple[Shared, StampedRequest] | None:
        """The decision; None if its stamp is forged, or one of another route."""
        stamp, _, rest = text.partition(".")
        shared = self._shared_by(stamp)
        if shared is None or shared.stamp.route != route:
            return None
        made = parsed_request(rest, shared.stamp.published)
        return None if made is None else (shared, made)

    def _shared_by(self, stamp: str) -> Shared | None:
        """None for a forged stamp, or one of a route that is not the engine's."""
        if stamp not in self._shared:
            try:
                facts = self._stamp_of(stamp)
            except BadDecisionId:
                self._shared[stamp] = None
            else:
                route = self._routes.get(facts.route)
                found = None if route is None else Shared(facts, route.policy.type, facts.route.encode())
                self._shared[stamp] = found
        return self._shared[stamp]


def _result(assigned: str, server: str, status_text: str, flag_text: str, attempts: str) -> Result | None:
    """Status and error of the response, and which variant served it; None if ``server`` cannot name a variant."""
    if not _VARIANT.fullmatch(server):
        return None
    status, error = _status_and_error(status_text, flag_text)
    responded = error in RESPONDED and status_text not in ("0", ABSENT) and server != ABSENT
    rescued = responded and server != assigned
    return Result(
        server if responded else "",
        status,
        # What the first attempt of a rescued request died of is not in the row.
        error or ("backend_status" if rescued else ""),
        rescued and status != 499,
        attempts.isdigit() and int(attempts) > 1,
    )


def _status_and_error(status_text: str, flag_text: str) -> tuple[int, str]:
    status = int(status_text) if status_text.isdigit() else 0
    if status > 999:
        raise ValueError("no status")
    flags = flag_text.split(",")
    failed = next((BY_FLAG[flag] for flag in flags if flag in BY_FLAG), "")
    if status == 0 or "DC" in flags or failed == "client_left":
        return 499, "client_left"
    return status, failed or ("backend_status" if status >= 500 else "")
