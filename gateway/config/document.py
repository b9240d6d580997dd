"""The configuration as written: one immutable tree whose attributes are the YAML keys.

A key that Python or pydantic needs for itself has a trailing underscore here (``for`` → ``for_``,
``json`` → ``json_``). Durations are seconds, shares in [0, 1], rates per second, sizes bytes.
A `Document` is whole in itself, section by section; what one section says about another is checked by
`gateway.config.references`, and `gateway.config.load` does both and knows the lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import Field

from gateway.config.backend import (
    Address,
    Backend,
    BackendTls,
    Ejection,
    Health,
    Limit,
    Pool,
)
from gateway.config.part import HostPort, Name, Part
from gateway.config.policy import (
    Bandit,
    BetaPrior,
    Canary,
    Debut,
    Discount,
    Feature,
    GammaPrior,
    Gate,
    Guardrail,
    NormalPrior,
    Policy,
    Shadow,
    Single,
    Split,
    Stage,
    Stop,
)
from gateway.config.route import (
    Backoff,
    Comparison,
    FallbackOn,
    FixedAnswer,
    Hedge,
    Match,
    Respond,
    Retry,
    RetryOn,
    Rewrite,
    Route,
    Timeouts,
    Unit,
    Variant,
)
from gateway.config.service import (
    Auth,
    BrowserAccess,
    ConfigAccess,
    DashboardAccess,
    FeedbackAccess,
    Jwt,
    Key,
    Limits,
    Log,
    Loops,
    Metric,
    Network,
    Record,
    Scope,
    ShadowLimits,
    Shutdown,
    Store,
    Telemetry,
    Tls,
    Traces,
    Webhook,
)

__all__ = [
    "Address",
    "Auth",
    "Backend",
    "BackendTls",
    "Backoff",
    "Bandit",
    "BetaPrior",
    "BrowserAccess",
    "Canary",
    "Comparison",
    "ConfigAccess",
    "DashboardAccess",
    "Debut",
    "Discount",
    "Document",
    "Ejection",
    "FallbackOn",
    "Feature",
    "FixedAnswer",
    "GammaPrior",
    "Gate",
    "Guardrail",
    "Health",
    "Hedge",
    "Jwt",
    "Key",
    "Limit",
    "Limits",
    "Log",
    "Loops",
    "Match",
    "Metric",
    "NormalPrior",
    "Policy",
    "Pool",
    "Record",
    "Respond",
    "Retry",
    "RetryOn",
    "Rewrite",
    "Route",
    "Scope",
    "Shadow",
    "ShadowLimits",
    "Shutdown",
    "Single",
    "Split",
    "Stage",
    "Stop",
    "Telemetry",
    "Timeouts",
    "Tls",
    "Traces",
    "Unit",
    "Variant",
    "Webhook",
    "observed",
    "quantile",
]


class Document(Part):
    listen: HostPort = "127.0.0.1:8080"
    control: HostPort | None = None
    """Separate address for the control API and the dashboard; if absent, they are on ``listen``."""
    store: Store = "sqlite:///turnout.db"
    tls: Tls | None = None
    trusted_proxies: tuple[Network, ...] = ()
    """Networks whose Forwarded and X-Forwarded-* headers are trusted."""
    auth: Auth | None = None
    """Authentication; if absent, everyone may use and read, and only this machine may steer and configure."""
    browsers: BrowserAccess = BrowserAccess()
    """Which web pages may call a gateway without ``auth``."""
    config: ConfigAccess = ConfigAccess()
    feedback: FeedbackAccess = FeedbackAccess()
    metrics: Mapping[Name, Metric] = Field(default_factory=dict)
    backends: Mapping[Name, Backend] = Field(default_factory=dict)
    routes: Mapping[Name, Route] = Field(default_factory=dict)
    limits: Limits = Limits()
    shutdown: Shutdown = Shutdown()
    record: Record = Record()
    loops: Loops = Loops()
    telemetry: Telemetry = Telemetry()
    webhooks: tuple[Webhook, ...] = ()

    def body_limit(self, route: str) -> int:
        """Maximum size of a request body of ``route``, in bytes."""
        own = self.routes[route].body_limit
        return self.limits.body if own is None else own


_QUANTILE: Final = re.compile(r"latency_p([1-9]\d?|999)")


def quantile(metric: str) -> float | None:
    """Quantile of a latency metric, 0.99 for ``latency_p99``; None if ``metric`` is not a latency quantile."""
    found = _QUANTILE.fullmatch(metric)
    return float(f"0.{int(found[1]):02d}") if found else None


def observed(metric: str) -> bool:
    """Whether the gateway measures ``metric`` itself, so that clients do not report it."""
    return metric == "error_rate" or quantile(metric) is not None
