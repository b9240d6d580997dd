"""From the rows that a node logs, one for each request, to outcomes."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.config.document import Document
from gateway.config.route import RouteConfig
from gateway.engines.otlp import bodies
from gateway.record.decision_id import BadDecisionId
from gateway.record.events import Batch, Outcome, grouped, same
from gateway.record.stamp import MAX_EARLY_S, Stamp, StampedRequests, parsed_requests
from gateway.state.paging import MAX_PAGE_ROWS
from policies.allocation.bucketing import unit_hashes

ROWS_PATH: Final = "/-/engines/rows"
SEPARATOR: Final = "\x1f"
"""Between the fields of a row: no header can hold it."""
_FIELDS: Final = 14
"""Of a row, in the order of `envoy.bootstrap.ROW`, a character for each byte."""
_SEPARATOR: Final = SEPARATOR.encode()
_BETWEEN: Final = b"\x1f\n\x1f"
"""Put between rows: a field of its own in a place where no whole row has one."""
_VARIANT: Final = re.compile(r"-|[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_DIGITS: Final = 15
"""A greater number is none that a node counts, and the store holds 64 bits."""
_MAX_NUMBER: Final = 10**_MAX_DIGITS
MAX_AHEAD_S: Final = 60.0
"""How far a node's clock may be ahead."""
ABSENT: Final = "-"
"""What Envoy writes for a field without a value."""
_NO_UNIT: Final = frozenset(("", ABSENT))

_VISIBLE: Final = bytes(range(0x21, 0x7F))

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


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one export."""

    node: str
    outcomes: Batch
    refused: int
    """Rows that no node of this fleet can have written: forged ids, other fleets' routes, wrong fields, wrong times."""
    skew: float = 0.0
    """Seconds by which the node's clock is ahead, if rows were refused for that; negative if it is behind."""


def rows(
    body: bytes, engine: str, document: Document, revision: int, stamp_of: Callable[[str], Stamp], now: float
) -> Rows:
    """The outcomes of an OTLP export. ``stamp_of`` opens the stamps of decision ids; ``now`` is in seconds.

    Raises ValueError if ``body`` is not an OTLP export of logs.
    """
    return StampReader(document.engine_routes(engine), revision, stamp_of).read(*bodies(body), now)


class Shared(NamedTuple):
    """What all rows of one variant in one epoch share."""

    stamp: Stamp
    policy: str
    forced: bool = False
    """Whether the propensity is unknown."""
    failing: frozenset[int] = frozenset()
    """Statuses below 500 that count as errors of the variant."""


Keys = Sequence[Sequence[Hashable]]
"""By column."""


class _Facts(NamedTuple):
    """What rows with the same text for it share: facts of the decision, then of the response."""

    published: float
    route: str
    policy: str
    epoch: int
    assigned: str
    propensity: float
    forced: bool
    served: str
    status: int
    error: str
    rescued: bool
    retried: bool


_REFUSED: Final = _Facts(inf, "", "", 0, "", 0.0, False, "", 0, "", False, False)
"""Of rows that no node can have written: none was decided that late."""


class Reader(ABC):
    """Reads the rows of an export by column: thousands share a few results."""

    def __init__(self, revision: int) -> None:
        self._revision = revision
        self._skew = 0.0

    @abstractmethod
    def decisions(self, fields: Sequence[Sequence[str]]) -> tuple[Keys, StampedRequests]:
        """The keys that `shared` takes and the requests, from the columns of some rows."""

    @abstractmethod
    def shared(self, key: Sequence[Any]) -> Shared | None:
        """What the rows with this key share; None if no node can have written them."""

    def read(self, node: str, texts: Sequence[bytes], now: float) -> Rows:
        """The outcomes of the rows of a node. ``now`` is in seconds."""
        steps = (  # a longer one would hold up the event loop
            self._outcomes(texts[start : start + MAX_PAGE_ROWS], now)
            for start in range(0, len(texts), MAX_PAGE_ROWS)
        )
        batches = [batch for batch in steps if batch]
        outcomes = Batch.joined(batches) if batches else Batch()
        return Rows(node, outcomes, len(texts) - len(outcomes), self._skew)

    def _outcomes(self, texts: Sequence[bytes], now: float) -> Batch:
        """The outcomes of those rows that a node can have written."""
        if not texts:
            return Batch()
        fields = _by_column(texts)
        if fields is None:
            return self._outcomes([text for text in texts if text.count(_SEPARATOR) == _FIELDS - 1], now)
        keys, requests = self.decisions(fields)
        results, places = grouped(*keys, *fields[2:6])
        distinct, codes = [self._facts(*result) for result in results], places.tolist()
        facts: Any = _Facts._make(_spread(values, codes) for values in zip(*distinct, strict=True))
        total, gateway, backend, received, sent = map(_numbers, fields[6:11])
        published = np.array(facts.published)
        behind = requests.decided < published - MAX_EARLY_S
        wrong = behind | (requests.decided > now + MAX_AHEAD_S)
        good = requests.good & ~wrong & (received >= 0) & (sent >= 0)
        good &= np.maximum.reduce((total, gateway, backend, received, sent)) < _MAX_NUMBER
        if not good.all():
            wrong &= requests.good & np.isfinite(published)  # of a decision of this fleet
            if wrong.any():
                self._skew = float(requests.decided[wrong][-1]) - now
            return self._outcomes([texts[place] for place in np.flatnonzero(good).tolist()], now)
        total = np.maximum(total, 0)
        total_ms = (total / 1000.0).tolist()
        none = [""] * len(texts)
        attempts = none
        if any(facts.retried):
            attempts = [*none]
            for place in np.flatnonzero(facts.retried).tolist():
                last = [facts.served[place], fields[11][place][:256], facts.status[place], total_ms[place]]
                attempts[place] = json.dumps([last])
        unit, sticky = _units(facts.route, fields[13], requests.decisions)
        by_column: Any = (
            requests.decisions,
            requests.decided.tolist(),
            facts.route,
            facts.policy,
            [self._revision] * len(texts),
            facts.epoch,
            unit,
            sticky,
            facts.assigned,
            facts.served,
            facts.propensity,
            facts.forced,
            facts.status,
            facts.error,
            facts.rescued,
            attempts,
            (np.where(gateway < 0, total, gateway) / 1000.0).tolist(),
            (np.maximum(backend, 0) / 1000.0).tolist(),
            total_ms,
            received.tolist(),
            sent.tolist(),
            _request_ids(fields[12]),
            none,  # principal
            none,  # features
            none,  # backend_request_id
        )
        return Batch(Outcome._make(by_column))

    def _facts(self, *result: Any) -> _Facts:
        """What rows share; `_REFUSED` if ``server`` cannot name a variant, or no node can have written the rest."""
        *key, server, status_text, flag_text, attempts = result
        shared = self.shared(key)
        if shared is None or not _VARIANT.fullmatch(server):
            return _REFUSED
        try:
            status, error = _status_and_error(status_text, flag_text)
        except ValueError:
            return _REFUSED
        stamp = shared.stamp
        responded = error in RESPONDED and status_text not in ("0", ABSENT) and server != ABSENT
        rescued = responded and server != stamp.assigned
        return _Facts(
            stamp.published,
            stamp.route,
            shared.policy,
            stamp.epoch,
            stamp.assigned,
            stamp.propensity,
            shared.forced,
            server if responded else "",
            status,
            # What the first attempt of a rescued request died of is not in the row.
            error or ("backend_status" if rescued or (responded and status in shared.failing) else ""),
            rescued and status != 499,
            attempts.isdecimal() and attempts.lstrip("0") not in ("", "1"),
        )


class StampReader(Reader):
    """Reads rows whose decision ids are stamped."""

    def __init__(
        self, routes: Mapping[str, RouteConfig], revision: int, stamp_of: Callable[[str], Stamp]
    ) -> None:
        super().__init__(revision)
        self._routes = routes
        self._stamp_of = stamp_of

    def decisions(self, fields: Sequence[Sequence[str]]) -> tuple[Keys, StampedRequests]:
        """Stamp and route of each, and the requests."""
        stamps, _, rests = zip(*(text.partition(".") for text in fields[0]), strict=True)
        return (stamps, fields[1]), parsed_requests(rests)

    def shared(self, key: Sequence[Any]) -> Shared | None:
        """None for a forged stamp, one of another route, or one of a route that is not the engine's."""
        try:
            stamp = self._stamp_of(key[0])
        except BadDecisionId:
            return None
        route = self._routes.get(stamp.route)
        if route is None or stamp.route != key[1]:
            return None
        return Shared(stamp, route.policy.type, failing=route.failing_statuses)


def _spread(values: Sequence[Any], places: Sequence[int]) -> Any:
    """For each of ``places``, the value there."""
    if same(values):
        return [values[0]] * len(places)
    return [values[place] for place in places]


def _by_column(texts: Sequence[bytes]) -> list[list[str]] | None:
    """The fields of at least one row; None if a row has more or fewer fields."""
    cells = _BETWEEN.join(texts).decode("latin-1").split(SEPARATOR)
    step = _FIELDS + 1
    if len(cells) != step * len(texts) - 1 or cells[_FIELDS::step].count("\n") < len(texts) - 1:
        return None
    return [cells[place::step] for place in range(_FIELDS)]


def _numbers(texts: Sequence[str]) -> NDArray[np.int64]:
    """Whole numbers, -1 for what is none."""
    if "".join(texts).isdecimal():
        found = np.fromstring(" ".join(texts), np.int64, sep=" ")  # greater ones become the greatest
        if len(found) == len(texts):
            return found
    return np.array([_number(text) for text in texts], np.int64)


def _number(text: str) -> int:
    if not text.isdecimal():
        return -1
    return int(text) if len(text) <= _MAX_DIGITS else _MAX_NUMBER


def _units(
    routes: Sequence[str], texts: Sequence[str], decisions: Sequence[bytes]
) -> tuple[Sequence[int], Sequence[bool]]:
    """The units' hashes, and whether a request has one: if not, 64 bits of the decision stand for it."""
    if routes.count(routes[0]) == len(routes):
        units = _hashes(routes[0], texts)
    else:
        places: dict[str, list[int]] = {}
        for place, name in enumerate(routes):
            places.setdefault(name, []).append(place)
        units = [0] * len(texts)
        for name, those in places.items():
            for place, unit in zip(those, _hashes(name, [texts[place] for place in those]), strict=True):
                units[place] = unit
    if _NO_UNIT.isdisjoint(texts):
        sticky = [True] * len(texts)
    else:
        sticky = [text not in _NO_UNIT for text in texts]
        for place in np.flatnonzero(np.logical_not(sticky)).tolist():
            units[place] = int.from_bytes(decisions[place][8:], "big")
    return units, sticky


def _hashes(route: str, texts: Sequence[str]) -> list[int]:
    """The units' hashes on one route, each distinct one computed once."""
    distinct = [*set(texts)]
    hashes = unit_hashes(route.encode(), [text.encode("latin-1") for text in distinct])
    return [*map(dict(zip(distinct, hashes, strict=True)).__getitem__, texts)]


def _request_ids(texts: Sequence[str]) -> Sequence[str]:
    """The ids; "" for what the gateway would not have accepted as one."""
    joined = "".join(texts)
    visible = joined.isascii() and not joined.encode().translate(None, _VISIBLE)
    if visible and min(map(len, texts)) > 1 and max(map(len, texts)) <= 128:
        return texts
    return [
        text if 2 <= len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text else ""
        for text in texts
    ]


def _status_and_error(status_text: str, flag_text: str) -> tuple[int, str]:
    status = int(status_text) if status_text.isdigit() else 0
    if status > 999:
        raise ValueError("no status")
    flags = flag_text.split(",")
    failed = next((BY_FLAG[flag] for flag in flags if flag in BY_FLAG), "")
    if status == 0 or "DC" in flags or failed == "client_left":
        return 499, "client_left"
    return status, failed or ("backend_status" if status >= 500 else "")
