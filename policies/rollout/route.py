"""What decides about one route while it runs, in addition to its configuration: one document in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from policies.rollout.ejections import Ejections
from policies.rollout.state import State
from policies.rollout.stop_rule import StopState


@dataclass(frozen=True, slots=True)
class RouteState:
    """The state that the reducers of a route share.

    `machine.step` moves ``rollout``, `ejections.look` moves ``ejections``, `stop_rule.look` and `stop_rule.command`
    move ``stop``; what follows for the allocation is read off all three.
    """

    rollout: State | None = None
    """Of a canary; None before its first step."""
    ejections: Ejections = field(default_factory=Ejections)
    stop: StopState = field(default_factory=StopState)
    acknowledged: float = 0.0
    """When a person last resumed the bandit: they know the alarms that were raised before."""

    def resumed(self, now: float) -> RouteState:
        """The bandit acts again; its guardrails compare what comes from now on."""
        return replace(self, acknowledged=now, ejections=replace(self.ejections, since=now))

    def as_dict(self) -> dict[str, Any]:
        return {
            "rollout": self.rollout.as_dict() if self.rollout is not None else None,
            "ejections": self.ejections.as_dict(),
            "stop": asdict(self.stop),
            "acknowledged": self.acknowledged,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`; fields that a later version adds are ignored.

        Raises ValueError when ``data`` is not such a dict.
        """
        try:
            rollout, stop = data["rollout"], data["stop"]
            return cls(
                State.from_dict(rollout) if rollout is not None else None,
                Ejections.from_dict(data["ejections"]),
                StopState(**{name: stop[name] for name in StopState.__slots__ if name in stop}),
                data.get("acknowledged", 0.0),
            )
        except (KeyError, TypeError) as fault:
            raise ValueError(f"this is not the state of a route: {fault!r}") from fault
