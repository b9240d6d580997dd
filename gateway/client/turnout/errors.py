"""Errors of the client library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TurnoutError(Exception):
    """Base of every error that this library raises."""


class BufferFull(TurnoutError):
    """The reward buffer holds its maximum: the gateway accepts fewer rewards than are reported."""


class FlushTimeout(TurnoutError):
    """Rewards were still unsent when the time for flushing was over."""


class NoDecision(TurnoutError):
    """The response carries no decision id: it did not come from a route of a gateway."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A reward that the gateway refused."""

    item: dict[str, object]
    """The reward as it was sent."""
    code: str
    """The gateway's error code, such as ``unknown_metric`` or ``outside_window``."""
    message: str


class RewardsRejected(TurnoutError):
    """The gateway refused rewards for good; sending them again cannot help."""

    def __init__(self, rejections: Sequence[Rejection]) -> None:
        self.rejections = tuple(rejections)
        first = self.rejections[0]
        more = f" (and {len(self.rejections) - 1} more)" if len(self.rejections) > 1 else ""
        super().__init__(f"{first.code}: {first.message}{more}")
