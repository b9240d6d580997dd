"""From the rows that a node logs, one for each request, to outcomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.config.document import Document
from gateway.engines.envoy.bootstrap import ROW, SEPARATOR
from gateway.engines.envoy.otlp import bodies
from gateway.record.decision_id import BadDecisionId, Opened
from gateway.record.events import Outcome
from policies.allocation.bucketing import unit_hash

_REQUEST_ID: Final = re.compile(r"[!-~]{2,128}")
ABSENT: Final = "-"
"""What Envoy writes for a field without a value."""

_BY_FLAG: Final = {
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


RESPONDED: Final = frozenset(("", "backend_status", "client_left"))
"""Errors with which a variant's response, or a part of it, reached the client."""


class Row(NamedTuple):
    """The fields of `bootstrap.ROW`, a character for each byte."""

    decision: str
    route: str
    served: str
    status: str
    flags: str
    attempts: str
    total_us: str
    gateway_us: str
    backend_us: str
    received: str
    sent: str
    address: str
    request_id: str
    unit: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one export."""

    node: str
    outcomes: list[Outcome]
    refused: int
    """Rows that no node of this fleet can have written: forged ids, other fleets' routes, wrong fields."""


def rows(
    body: bytes, engine: str, document: Document, revision: int, opened: Callable[[str], Opened]
) -> Rows:
    """The outcomes of an OTLP export. ``opened`` opens decision ids.

    Raises ValueError if ``body`` is not an OTLP export of logs.
    """
    routes, read = frozenset(document.engine_routes(engine)), list(bodies(body))
    made = [_outcome(text, routes, document, revision, opened) for _, text in read]
    outcomes = [outcome for outcome in made if outcome is not None]
    return Rows(read[0][0] if read else "", outcomes, len(made) - len(outcomes))


def _outcome(
    text: str,
    routes: Collection[str],
    document: Document,
    revision: int,
    opened: Callable[[str], Opened],
) -> Outcome | None:
    fields = text.split(SEPARATOR)
    if len(fields) != len(ROW):
        return None
    row = Row._make(fields)
    try:
        facts = opened(row.decision)
        if not facts.stamped or row.route != facts.route or facts.route not in routes:
            return None
        return _made(row, facts, document.routes[facts.route].policy.type, revision)
    except (BadDecisionId, ValueError):
        return None


def _made(row: Row, facts: Opened, policy: str, revision: int) -> Outcome:
    sticky = row.unit not in ("", ABSENT)
    attempts = int(row.attempts) if row.attempts.isdigit() else 0
    status, error = _result(row)
    served = (
        "" if error not in RESPONDED or row.status in ("0", ABSENT) or row.served == ABSENT else row.served
    )
    rescued = bool(served) and served != facts.assigned
    return Outcome(
        decision=facts.decision,
        time=facts.decided,
        route=facts.route,
        policy=policy,
        revision=revision,
        epoch=facts.epoch,
        unit=unit_hash(facts.route.encode(), row.unit.encode("latin-1")) if sticky else facts.unit,
        sticky=sticky,
        assigned=facts.assigned,
        served=served,
        propensity=facts.propensity,
        forced=False,
        status=status,
        # What the first attempt of a rescued request died of is not in the row.
        error=error or ("backend_status" if rescued else ""),
        fallback=rescued and status != 499,
        attempts="" if attempts <= 1 else f'[["{served}","{row.address}",{status},{_ms(row.total_us)}]]',
        gateway_ms=_ms(row.gateway_us if row.gateway_us != ABSENT else row.total_us),
        backend_ms=_ms(row.backend_us),
        total_ms=_ms(row.total_us),
        request_bytes=int(row.received),
        answer_bytes=int(row.sent),
        request_id=row.request_id if _REQUEST_ID.fullmatch(row.request_id) else "",
        principal="",
        features="",
    )


def _result(row: Row) -> tuple[int, str]:
    """Status and error of the response that the client got."""
    status = int(row.status) if row.status.isdigit() else 0
    flags = row.flags.split(",")
    if status == 0 or "DC" in flags:
        return 499, "client_left"
    failed = next((_BY_FLAG[flag] for flag in flags if flag in _BY_FLAG), "")
    return status, failed or ("backend_status" if status >= 500 else "")


def _ms(microseconds: str) -> float:
    return int(microseconds) / 1000.0 if microseconds.isdigit() else 0.0
