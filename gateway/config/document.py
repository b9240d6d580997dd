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

from gateway.config.auth import AuthConfig
from gateway.config.backend import BackendConfig
from gateway.config.kubernetes import AnyEngine, KubernetesConfig
from gateway.config.model import ConfigModel, HostPort, Name, Store
from gateway.config.route import RouteConfig
from gateway.config.service import (
    BrowserAccessConfig,
    ConfigAccessConfig,
    FeedbackAccessConfig,
    LimitsConfig,
    LoopsConfig,
    MetricConfig,
    Network,
    RecordConfig,
    ShutdownConfig,
    TelemetryConfig,
    TlsConfig,
    WebhookConfig,
)
from policies.types import ERROR_RATES


class Document(ConfigModel):
    listen: HostPort = "127.0.0.1:8080"
    control: HostPort | None = None
    """Separate address for the control API and the dashboard; if absent, they are on ``listen``."""
    store: Store = "sqlite:///turnout.db"
    tls: TlsConfig | None = None
    trusted_proxies: tuple[Network, ...] = ()
    """Networks whose Forwarded and X-Forwarded-* headers are trusted."""
    auth: AuthConfig | None = None
    """Authentication; if absent, everyone may use and read, and only this machine may steer and configure."""
    browsers: BrowserAccessConfig = BrowserAccessConfig()
    """Which web pages may call a gateway without ``auth``."""
    config: ConfigAccessConfig = ConfigAccessConfig()
    feedback: FeedbackAccessConfig = FeedbackAccessConfig()
    metrics: Mapping[Name, MetricConfig] = Field(default_factory=dict)
    backends: Mapping[Name, BackendConfig] = Field(default_factory=dict)
    engines: Mapping[Name, AnyEngine] = Field(default_factory=dict)
    routes: Mapping[Name, RouteConfig] = Field(default_factory=dict)
    limits: LimitsConfig = LimitsConfig()
    shutdown: ShutdownConfig = ShutdownConfig()
    record: RecordConfig = RecordConfig()
    loops: LoopsConfig = LoopsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    webhooks: tuple[WebhookConfig, ...] = ()

    def engine_routes(self, engine: str) -> dict[str, RouteConfig]:
        """Routes that a fleet serves, by name."""
        return {name: route for name, route in self.routes.items() if route.engine == engine}

    def httproute(self, route: str) -> tuple[str | None, str] | None:
        """Namespace (None: the engine's own) and name of the HTTPRoute with the shares of ``route``, if it has one."""
        section = self.routes.get(route)
        engine = self.engines.get(section.engine or "") if section is not None else None
        if section is None or not isinstance(engine, KubernetesConfig):
            return None
        namespace, _, name = (section.httproute or route).rpartition("/")
        return namespace or engine.namespace, name

    def joins_rows(self, route: str) -> bool:
        """Whether a reward of the route counts only with the row of its request (``ids: joined``)."""
        found = self.routes.get(route)
        return found is not None and found.engine is not None and self.engines[found.engine].ids == "joined"

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
    return metric in ERROR_RATES or quantile(metric) is not None
