"""All that a request reads, compiled off the hot path and immutable, but for a route's allocation and one counter.

`gateway.compile.snapshot` makes it. A request takes the snapshot once, when its head begins, and finishes on
it whatever is edited meanwhile. Only ``RoutePlan.table`` and ``shadows`` are replaced in place, by the allocation loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Literal

from gateway.auth.principal import Authenticator
from gateway.dataplane.tables import Table
from gateway.dataplane.variant import FixedResponse, VariantPlan
from gateway.http.fields import REQUEST_ACTIONS, Actions, resolve
from gateway.telemetry.tracing.sampling import Tracing
from policies.comparison.bodies import Comparison

UnitKind = Literal["header", "cookie", "query", "json", "principal"]
MAX_CACHED_PATHS: Final = 4096
MAX_CACHED_PATH_BYTES: Final = 256
"""Paths that lead to a route are remembered, up to this number and length: what strangers ask for is not."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; `NEVER` means none."""

    connect: float
    first_byte: float
    idle: float
    total: float


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """What all shadows of a process may use together; bytes and seconds."""

    waiting: int
    bytes: int
    in_flight: int
    timeout: float
    answer: int
    load: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask of the gateway; bytes and seconds."""

    connections: int
    head: int
    fields: int
    target: int
    body: int
    header_timeout: float
    body_timeout: float
    body_min_rate: float
    body_grace: float
    idle_timeout: float
    write_timeout: float
    control_body: int
    pipeline: int
    websockets: int
    websocket_life: float
    """0.0: no limit."""
    last_idle: float
    """Seconds for which an idle connection stays open when the process ends."""
    shadow: ShadowLimits


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What a request must have besides the path for a route to be its own."""

    hosts: tuple[bytes, ...] = ()
    """Lower-cased; one that begins with "*." stands for every name below. Empty: any."""
    methods: frozenset[bytes] = frozenset()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """(lower-cased name, exact value)."""
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class UnitSource:
    """Where a route finds the unit of a request, and what becomes of it."""

    kind: UnitKind
    name: bytes
    """Of the header, cookie, parameter or field; b"" for a principal."""
    keyed: blake2b
    """What their hash begins with (`policies.allocation.bucketing.keyed`)."""
    placement: tuple[int, int]
    """Where their hashes lie: see `policies.allocation.bucketing.placed`."""


@dataclass(frozen=True, slots=True, eq=False)
class Failures:
    """The failures after which something else is tried."""

    codes: frozenset[str]
    statuses: frozenset[int]

    def has(self, code: str, status: int) -> bool:
        """``status``: of a response; 0 where there is none, so that ``code`` tells."""
        return status in self.statuses if status else code in self.codes


@dataclass(frozen=True, slots=True, eq=False)
class Retry:
    """Repetitions at the same variant."""

    attempts: int
    """0: none."""
    on: Failures
    replayable: bool
    """Whether what was sent may be sent again."""
    backoff_base: float
    backoff_max: float
    share: float
    """Of the requests at a backend that may be repetitions, beyond ``least``."""
    least: int

    def longest_pause(self, number: int) -> float:
        """Seconds before repetition ``number``, from 1, at most."""
        return min(self.backoff_max, self.backoff_base * 2.0 ** (number - 1))


@dataclass(slots=True, eq=False)
class HedgePlan:
    """Second copies of requests that are slow."""

    after: float
    """Seconds."""
    share: float
    credit: float = 0.0
    """Copies that may be sent now; grows by ``share`` with each request."""


@dataclass(slots=True, eq=False)
class RoutePlan:
    """One route. Only ``table`` and ``shadows`` change, and the credit of ``hedge``."""

    name: str
    policy: str
    prefix: bytes
    condition: Condition | None
    variants: dict[str, VariantPlan]
    table: Table
    unit: UnitSource | None
    fallback: tuple[VariantPlan | FixedResponse, ...]
    fallback_on: Failures
    retry: Retry
    client_statuses: frozenset[int]
    """Those of ``fallback_on`` and ``retry`` below 500, for example 429."""
    hedge: HedgePlan | None
    timeouts: Timeouts
    body_limit: int
    buffer_limit: int
    forward_credentials: bool
    shadows: tuple[tuple[VariantPlan, float], ...]
    comparison: Comparison
    """How a shadow's response is compared with the primary's."""
    needs_body: bool
    """Whether the decision waits for the body, up to ``buffer_limit``: a JSON unit or feature, a model to match
    or rewrite."""
    client_errors: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    """By server status: texts in the body of a response that is the client's fault."""
    infers: re.Pattern[bytes] | None = None
    """Ends of the paths to which a POST is an inference; None: every request is one."""
    reads_usage: bool = False
    """Whether token counts are read from responses."""
    requests_usage: bool = False
    """Whether a stream of chunks is asked for its token counts, if its client does not say."""
    reads_model: bool = False
    """Whether the body's `model` is matched or rewritten."""

    @property
    def rewrites(self) -> bool:
        return any(v.rewrite is not None or v.version is not None for v in self.variants.values())

    def fails(self, status: int) -> bool:
        """Whether a response with ``status`` is a failure of its variant, unless `client_errors` says otherwise."""
        return status >= 500 or status in self.client_statuses

    @property
    def retains(self) -> bool:
        """Whether a body must be kept for a second attempt or a shadow."""
        return bool(self.fallback or self.shadows or self.retry.attempts)


class Snapshot:
    """One configuration, compiled."""

    def __init__(
        self,
        *,
        revision: int,
        routes: Mapping[str, RoutePlan],
        authenticator: Authenticator,
        limits: Limits,
        trusted: Callable[[str], bool],
        tracing: Tracing | None = None,
        served: Iterable[RoutePlan] | None = None,
    ) -> None:
        """``served``: the routes that requests here may take; None: all of ``routes``."""
        self.revision = revision
        self.routes = dict(routes)
        self.authenticator = authenticator
        self.limits = limits
        self.trusted = trusted
        self.tracing = tracing
        """None: no request is traced, and what names a trace passes as it came."""
        self.actions = Actions(REQUEST_ACTIONS)
        self.ranked = tuple(sorted(routes.values() if served is None else served, key=_specificity))
        self._paths: dict[bytes, tuple[RoutePlan, ...]] = {}
        self._unknown: bytes | None = None
        """The last path without a route, for which the error message asks once more."""

    def candidates(self, path: bytes) -> tuple[RoutePlan, ...]:
        """The routes whose prefix holds ``path`` (without its query), the most specific first."""
        known = self._paths.get(path)
        if known is None:
            if path == self._unknown:
                return ()
            known = self._search(path)
            if not known:
                self._unknown = path
            elif len(path) <= MAX_CACHED_PATH_BYTES:
                if len(self._paths) >= MAX_CACHED_PATHS:
                    self._paths.clear()
                self._paths[path] = known
        return known

    def _search(self, path: bytes) -> tuple[RoutePlan, ...]:
        resolved = resolve(path)
        if resolved is None:
            return ()
        # The path itself must hold the prefix too: it is forwarded as it came, so one that only reaches the
        # prefix through dot segments would reach the backend as something else.
        # And where the path is rewritten, they would climb out of the variant.
        plain = resolved == path
        return tuple(
            r
            for r in self.ranked
            if holds(r.prefix, resolved) and holds(r.prefix, path) and (plain or not r.rewrites)
        )


def holds(prefix: bytes, path: bytes) -> bool:
    """Whether ``path`` is ``prefix`` or lies below it, by whole segments."""
    if not path.startswith(prefix):
        return False
    return (
        len(path) == len(prefix)
        or prefix.endswith(b"/")
        or path[len(prefix) : len(prefix) + 1] in (b"/", b":")
    )


def _specificity(route: RoutePlan) -> tuple[int, int]:
    condition = route.condition
    extra = 0
    if condition is not None:
        extra = (
            bool(condition.hosts) + bool(condition.methods) + len(condition.headers) + bool(condition.models)
        )
    return -len(route.prefix), -extra
