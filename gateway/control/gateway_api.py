"""What the control API needs of the running gateway; `gateway.server` provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from gateway.auth.principal import Authenticator, Principal
from gateway.compile.revisions import Revisions
from gateway.config.document import Document
from gateway.dataplane.decide import Decided
from gateway.engines.fleet import Fleet
from gateway.ingest.rewards import RewardIngest
from gateway.state.base import Revision
from gateway.state.events import Events
from gateway.state.store import Store
from policies.allocation.model import Allocation
from policies.contextual.features import Scalar
from policies.rollout.events import Command


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One route as this process serves it now."""

    epoch: int
    revision: int
    allocation: Allocation
    health: Mapping[str, Sequence[Mapping[str, Any]]]
    """By variant: each address with its state (healthy | unhealthy | ejected | failing | stalled), failing (attempts,
    error, since; or None), in_flight, waiting."""
    shadow_counts: Mapping[str, Mapping[str, int]]
    """By shadow: offered, sent, dropped by reason, failed."""
    contextual: Mapping[str, Any] | None = None
    """Of a bandit with features: `gateway.compile.ensembles.described`."""
    by_epoch: bool = False
    """Whether the rewards of a sticky unit count once in each epoch, within which shares are constant."""


@dataclass(frozen=True, slots=True)
class Outage:
    """The store is unavailable; times in seconds since the epoch."""

    since: float
    state_time: float | None
    """When the last state was written that the process started from and serves; None if it has read the store."""

    @property
    def message(self) -> str:
        """One sentence for people."""
        text = f"The store has been unavailable since {_clock(self.since)}."
        if self.state_time is not None:
            text += (
                f" The gateway started without it, and serves its last state, of {_clock(self.state_time)}."
            )
        return f"{text} Requests continue; rewards wait in the spool; rollouts and bandits keep their state."


def _clock(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class GatewayApi(Protocol):
    """The running gateway as the control API sees it."""

    @property
    def store(self) -> Store: ...
    @property
    def rewards(self) -> RewardIngest: ...
    @property
    def fleet(self) -> Fleet: ...
    @property
    def revisions(self) -> Revisions[Any]: ...
    @property
    def events(self) -> Events: ...

    def now(self) -> float:
        """Return the wall clock, in seconds since the epoch."""
        ...

    def document(self) -> Document:
        """Return the configuration in force."""
        ...

    def revision(self) -> Revision:
        """Return the revision in force."""
        ...

    def authenticator(self) -> Authenticator:
        """Return the authenticator of the configuration in force."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Return whether requests can be served, and if not, why."""
        ...

    def store_outage(self) -> Outage | None:
        """Return what is known of an outage of the store; None while the store is available."""
        ...

    def decide(
        self,
        route: str,
        unit: str,
        features: Mapping[str, Scalar],
        principal: Principal,
        forced: str,
        request_id: str,
    ) -> Decided:
        """Assign a variant without a request; see `gateway.dataplane.decide.decide`. Raises TurnoutError."""
        ...

    def metrics(self) -> bytes:
        """Return the metrics of all workers in the Prometheus text format."""
        ...

    def route_status(self, route: str) -> RouteStatus | None:
        """Return how ``route`` runs now; None for an unknown route."""
        ...

    async def rollout(self, route: str, word: Command) -> Mapping[str, Any]:
        """Steer a rollout or a bandit; return the new state of the rollout or of the stop rule.

        Raises TurnoutError (not_found, conflict).
        """
        ...

    async def rollout_state(self, route: str, max_age: float = 0.0) -> Mapping[str, Any] | None:
        """Return the state of the route's rollout; None without one. ``max_age``: of its verdicts, in seconds."""
        ...

    def stop_state(self, route: str) -> Mapping[str, Any] | None:
        """Return the state of a bandit's stop rule; None without one."""
        ...

    async def held(self, route: str) -> str:
        """Return why a bandit ejects nothing or names no winner until it is resumed; empty if nothing holds it."""
        ...

    async def check_config(self, text: str, by: str) -> Mapping[str, Mapping[str, float]]:
        """Validate ``text`` and change nothing; return the shares of the routes whose policy it would change.

        Raises gateway.config.faults.ConfigError.
        """
        ...
