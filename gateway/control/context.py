"""What the control API needs of the gateway around it; `gateway.server` provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gateway.auth.principal import Authenticator
from gateway.config.document import Document
from gateway.ingest.rewards import RewardBook
from gateway.state.base import Event, Revision
from gateway.state.store import Store
from policies.allocation.model import Allocation

Action = Literal["promote", "rollback", "pause", "resume", "set"]


@dataclass(frozen=True, slots=True)
class Live:
    """One route as this process is serving it now."""

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


class Context(Protocol):
    """The seam between the control API and the running gateway."""

    store: Store
    rewards: RewardBook

    def document(self) -> Document: ...
    def revision(self) -> Revision: ...
    def live(self, route: str) -> Live | None:
        """None for an unknown route."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Whether requests can be served, and if not, why."""
        ...

    def refused_config(self) -> Mapping[str, Any] | None:
        """A configuration that came and was refused while another stays in force: when, by whom, where its first
        fault is and how many there are; not what it says, which may hold values of the environment."""
        ...

    def authenticator(self) -> Authenticator:
        """Of the configuration in force."""
        ...

    def metrics(self) -> bytes:
        """The Prometheus text format, over all workers."""
        ...

    def now(self) -> float: ...

    async def rollout(
        self, route: str, action: Action, weight: float | None, by: str, reason: str = ""
    ) -> Mapping[str, Any]:
        """Steers; answers the rollout's new state. Raises TurnoutError (not_found, invalid, conflict)."""
        ...

    async def rollout_state(self, route: str) -> Mapping[str, Any] | None: ...

    def stop_state(self, route: str) -> Mapping[str, Any] | None:
        """Where the stop rule of a bandit stands; None without one."""
        ...

    async def check_config(self, text: str, by: str) -> None:
        """Validates, and changes nothing. Raises gateway.config.load.ConfigError."""
        ...

    async def put_config(self, text: str, by: str, if_match: str | None) -> Revision:
        """Validates, stores, applies. Raises TurnoutError or gateway.config.load.ConfigError."""
        ...

    async def restore_config(self, revision: int, by: str, if_match: str | None) -> Revision: ...

    async def emit(self, kind: str, route: str, data: Mapping[str, Any]) -> Event: ...

    async def next_events(self, after: int, timeout: float) -> list[Event]:
        """Those with an id above ``after``; waits up to ``timeout`` seconds for the first."""
        ...
