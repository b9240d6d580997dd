"""The check of a configuration is its build: all that a gateway makes of a document, before any of it is in force.

`turnout check`, the start, the file's watcher, PUT and replicas prepare alike. What can't be built is refused with
the line and the key that it fails at, and nothing has changed; putting what was prepared in force only assigns.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway import clock
from gateway.auth.jwt import Tokens
from gateway.clock import Chance
from gateway.compile.arrange import RouteAllocation, arranged
from gateway.compile.plans import plan
from gateway.compile.registry import Context, Draft, Registry
from gateway.compile.snapshot import route_plan, snapshot
from gateway.compile.steering import Steering, steering
from gateway.config.backend import BackendTlsConfig
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.files import client_context, listener_context, missing_files, named_files, unusable_files
from gateway.config.load import Examined
from gateway.config.otel import with_environment
from gateway.config.references import Finding
from gateway.config.watch import Signatures, signatures
from gateway.dataplane.snapshot import Snapshot
from gateway.dataplane.tables import IdPrefix
from gateway.state.base import Published
from gateway.telemetry.tracing.exporter import Exporter
from gateway.telemetry.tracing.traces import Traces
from policies.allocate import Plan
from policies.rollout.route import RouteState

log = logging.getLogger("turnout.config")


@dataclass(frozen=True, slots=True)
class View:
    """What a document is prepared against. Preparing reads it, and changes none of it."""

    registry: Registry
    traces: Traces
    id_prefix: IdPrefix
    chance: Chance
    now: float
    tokens: Tokens | None = None
    states: Mapping[str, RouteState] = field(default_factory=dict)
    """Where the rollouts, guardrails and stop rules stand, by route."""
    published: Mapping[str, tuple[Published, bytes]] = field(default_factory=dict)
    """By route: the allocation, and the ensemble that belongs to it."""
    env: Mapping[str, str] = field(default_factory=dict)
    """The ``OTEL_*`` variables are read from it."""
    context: Context | None = client_context
    """None: files are not read (they may be elsewhere)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that follows from a document; none of it is in force yet."""

    document: Document
    snapshot: Snapshot
    draft: Draft
    steering: Mapping[str, Steering]
    held: Mapping[str, RouteAllocation]
    tokens: Tokens | None
    exporter: Exporter | None
    files: Signatures
    """Those that it names, as they were."""
    listener: ssl.SSLContext | None = None
    """How clients speak TLS to the gateway."""
    missing: tuple[Finding, ...] = ()
    """Files that the document names and that are not here, where the view does without them."""


class _Build:
    """Goes through the parts of a document, and keeps what goes wrong in each."""

    def __init__(self, found: Examined, source: str) -> None:
        self._found = found
        self._source = source
        self._findings: list[Finding] = []

    def refuse(self, findings: Iterable[Finding]) -> None:
        self._findings += findings

    @contextmanager
    def at(self, *path: str) -> Iterator[None]:
        """What goes wrong within is a fault of the key at ``path``."""
        try:
            yield
        except (ValueError, OSError) as error:
            self._findings.append(
                Finding(path, f"the gateway can't be built from this configuration: {error}", of_key=True)
            )
        except Exception as error:
            log.exception("building a configuration failed")
            said = f"the gateway can't be built from this configuration: {type(error).__name__}: {error}"
            self._findings.append(Finding(path, said, of_key=True))

    def check(self) -> None:
        """Raises ConfigError if anything went wrong so far."""
        if self._findings:
            raise ConfigError(self._source, self._found.placed(self._findings))


def prepare(found: Examined, view: View, *, source: str) -> Prepared:
    """Builds the document of ``found``. Pure but for reading the files that it names; for any thread.

    Raises ConfigError with every fault, and nothing else; ``source`` names the text in it.
    """
    document = found.document
    if document is None:
        raise ConfigError(source, found.faults)
    build = _Build(found, source)
    files = signatures(named_files(document) | found.secret_files)
    missing: list[Finding] = []
    with build.at():
        missing += missing_files(document)
        build.refuse(unusable_files(document))
    if view.context is not None:
        build.refuse(missing)
    build.check()
    draft = Draft(view.registry, view.context or _without_files)
    plans: dict[str, Plan] = {}
    steered: dict[str, Steering] = {}
    held: dict[str, RouteAllocation] = {}
    for name, backend in document.backends.items():
        with build.at("backends", name):
            draft.backend(name, backend, view.chance)
    for name in document.routes:
        with build.at("routes", name, "policy"):
            plans[name] = plan(document, name)
    build.check()
    for name, route in document.routes.items():
        with build.at("routes", name, "policy"):
            steered[name] = steering(route, view.states.get(name, RouteState()), view.now)
            published = view.published.get(name, (None, b""))
            held[name] = arranged(plans[name], steered[name].override, *published)
    build.check()
    return _assembled(document, view, build, draft, steered, held, files, tuple(missing))


def _assembled(
    document: Document,
    view: View,
    build: _Build,
    draft: Draft,
    steered: Mapping[str, Steering],
    held: Mapping[str, RouteAllocation],
    files: Signatures,
    missing: tuple[Finding, ...],
) -> Prepared:
    routes = {}
    for name in document.routes:
        with build.at("routes", name):
            routes[name] = route_plan(name, document, draft.backends, held[name], view.id_prefix)
    tokens, exporter, tracing, listener = None, None, None, None
    with build.at("tls"):
        if document.tls is not None and view.context is not None:
            listener = listener_context(document.tls)
    with build.at("auth", "jwt"):
        tokens = _tokens(document, view.tokens)
    with build.at("telemetry", "traces"):
        settings = with_environment(document.telemetry.traces, view.env)
        exporter, tracing = view.traces.prepare(settings)
    build.check()
    with build.at():
        verify = tokens.verify if tokens is not None else None
        made = snapshot(document, routes, bucket=draft.bucket, verify=verify, tracing=tracing)
    build.check()
    return Prepared(document, made, draft, steered, held, tokens, exporter, files, listener, missing)


def _tokens(document: Document, known: Tokens | None) -> Tokens | None:
    """Tokens keep their keys, and their fetching, as long as the section stays the same."""
    settings = document.auth.jwt if document.auth is not None else None
    if settings is None:
        return None
    return known if known is not None and known.settings == settings else Tokens(settings)


def _without_files(tls: BackendTlsConfig) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def standalone(loop: asyncio.AbstractEventLoop, env: Mapping[str, str] | None = None) -> View:
    """What `turnout check` prepares against: nothing runs, nothing was learned, files may be elsewhere.

    ``env``: where the ``OTEL_*`` variables are read; None: they are not set.
    """
    chance = clock.chance()
    return View(
        registry=Registry(loop, lambda kind, data: None),
        traces=Traces(chance=chance, wall=clock.wall),
        id_prefix=lambda *_: b"",
        chance=chance,
        now=clock.wall(),
        env=env or {},
        context=None,
    )
