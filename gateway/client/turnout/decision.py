"""Decisions, as responses carry them, and the rewards that one reports about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from turnout.errors import NoDecision


class Scalar(Protocol):
    """A number of numpy or torch."""

    def item(self) -> Any: ...


Value = bool | int | float | Scalar | None
"""A metric's value; None retracts an earlier one."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The gateway's choice of a variant for one request."""

    id: str
    """The opaque decision id; with it a reward can be reported from another process. Empty for a request that
    is known by its `request_id` and `route` alone."""
    variant: str = ""
    """The variant that served the request; empty for a decision that was rebuilt from its id."""
    request_id: str = ""
    route: str = ""
    """The route of a request that is known by its id alone, or of `Client.decide`."""
    payload: Any = None
    """The variant's payload, of a decision by `Client.decide`."""
    propensity: float | None = None
    """The probability with which the variant was drawn, of a decision by `Client.decide`."""
    epoch: int | None = None
    _put: Callable[[dict[str, Any]], None] | None = field(default=None, repr=False, compare=False)

    def reward(self, metric: str, value: Value, *, tags: Mapping[str, str] | None = None) -> None:
        """Report ``value`` of ``metric`` in the background.

        The same value again changes nothing, another value replaces the first.

        Raises:
            BufferFull: The gateway accepts fewer rewards than are reported.
            ValueError: ``value`` is not a finite number, or the decision has no id.
        """
        if self._put is None:
            raise NoDecision("this decision belongs to no client; use client.decision(id)")
        if not (self.id or self.request_id):
            raise ValueError("this decision has no id; pass the x-decision-id of a response")
        named = {"decision_id": self.id} if self.id else {"route": self.route, "request_id": self.request_id}
        item: dict[str, Any] = {**named, "metric": metric, "value": _plain(value)}
        if tags:
            item["tags"] = dict(tags)
        self._put(item)

    def retract(self, metric: str) -> None:
        """Take back what was reported for ``metric``. Raises BufferFull."""
        self.reward(metric, None)

    @classmethod
    def of(cls, headers: Mapping[str, str], put: Callable[[dict[str, Any]], None] | None) -> Self | None:
        """The decision that response ``headers`` carry; None if they carry none."""
        identity = headers.get("x-decision-id")
        if not identity:
            return None
        return cls(identity, headers.get("x-variant", ""), headers.get("x-request-id", ""), _put=put)

    @classmethod
    def decided(cls, route: str, found: Mapping[str, Any], put: Callable[[dict[str, Any]], None]) -> Self:
        """The decision that a response of ``POST /-/decide`` describes."""
        return cls(
            found["decision_id"],
            found["variant"],
            route=route,
            payload=found["payload"],
            propensity=found["propensity"],
            epoch=found["epoch"],
            _put=put,
        )


def _plain(value: Any) -> bool | int | float | None:
    """``value`` without the type of an array's element (numpy, torch). Raises ValueError."""
    plain = value.item() if hasattr(value, "item") else value
    if plain is None or (isinstance(plain, int | float) and -math.inf < plain < math.inf):
        return plain
    raise ValueError(f"{plain!r} is not a reward; write True, False or a finite number, or None to retract")


_captured: ContextVar[list[Decision] | None] = ContextVar("turnout_captured", default=None)


@contextmanager
def capture() -> Iterator[list[Decision]]:
    """Collect the decisions of the requests that an attached client makes inside the block, in order."""
    found: list[Decision] = []
    token = _captured.set(found)
    try:
        yield found
    finally:
        _captured.reset(token)


def remember(decision: Decision | None) -> None:
    """Add a decision to the surrounding `capture`, if there is one."""
    found = _captured.get()
    if found is not None and decision is not None:
        found.append(decision)
