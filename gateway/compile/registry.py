"""The addresses, gates and health of one process. They outlive the configurations that name them.

A configuration is first drafted (`Draft`), which changes nothing that runs, and then taken (`Registry.take`),
which only assigns.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from gateway.auth.principal import Bucket
from gateway.config.backend import BackendConfig, BackendTlsConfig
from gateway.transport import health
from gateway.transport.address import MAX_IDLE_CONNECTIONS, Address
from gateway.transport.balancer import Backend
from gateway.transport.endpoint import Endpoint
from gateway.transport.http2_address import Http2Address, NegotiatedAddress
from gateway.transport.limiter import ConcurrencyLimiter, Limit
from policies import ejection

Context = Callable[[BackendTlsConfig], ssl.SSLContext]


class Registry:
    """The addresses, limiters, health and token buckets in force."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: health.Report, *, part: float = 1.0) -> None:
        """``tell``: receives changes of health. ``part``: this process's part of each key's rate."""
        self.loop = loop
        self.tell = tell
        self.part = part
        self.addresses: dict[tuple[Endpoint, bool], Address] = {}
        """By endpoint, and whether it is for shadows, which have connections of their own."""
        self.backends: dict[str, Backend] = {}
        self.limiters: dict[str, ConcurrencyLimiter] = {}
        self.healths: dict[str, health.Health] = {}
        self.buckets: dict[tuple[str, float], Bucket] = {}

    def address(self, backend: BackendConfig, place: int) -> Address:
        """The address number ``place`` of a backend that is in force."""
        return self.addresses[endpoint(backend, place), False]

    def probe_address(self, backend: BackendConfig, place: int) -> Address:
        """The address number ``place`` for a probe, which has a connection of its own and never keeps it."""
        known = self.address(backend, place)
        offer = known.offer if isinstance(known, Http2Address) else None
        return new_address(known.endpoint, self.loop, known.context, offer, known.server_name, max_idle=0)

    def take(self, draft: Draft) -> None:
        """Puts ``draft`` in force, and closes the idle connections of addresses that are no longer named."""
        gone = [address for key, address in self.addresses.items() if key not in draft.addresses]
        self.addresses, self.backends, self.limiters = draft.addresses, draft.backends, draft.limiters
        self.healths, self.buckets = draft.healths, draft.buckets
        for address, options in draft.options.items():
            address.context = options.context
            if isinstance(address, Http2Address):
                address.offer = options.offer
            address.idle_timeout, address.max_idle = options.idle, options.size
            address.min_stall = options.silence
        for name, backend in draft.backends.items():
            document = draft.documents[name]
            backend.limiter.limit = _limit(document)
            backend.health.configure(backend.addresses, _settings(document))
            backend.health.stall_detection = _silence(document) > 0.0
        for address in gone:
            address.close()


@dataclass(slots=True)
class Options:
    """The options of one address, which several backends may name."""

    context: ssl.SSLContext | None
    offer: ssl.SSLContext | None
    """Offers HTTP/2."""
    idle: float
    size: int
    silence: float


class Draft:
    """The registry that a configuration asks for; making it only reads the registry in force."""

    def __init__(self, registry: Registry, context: Context) -> None:
        """``context``: returns the TLS context for a backend; raises OSError for files that can't be used."""
        self._registry = registry
        self._context = context
        self._contexts: dict[tuple[BackendTlsConfig, tuple[str, ...]], ssl.SSLContext] = {}
        self.addresses: dict[tuple[Endpoint, bool], Address] = {}
        self.options: dict[Address, Options] = {}
        self.limiters: dict[str, ConcurrencyLimiter] = {}
        self.healths: dict[str, health.Health] = {}
        self.buckets: dict[tuple[str, float], Bucket] = {}
        self.backends: dict[str, Backend] = {}
        self.documents: dict[str, BackendConfig] = {}

    def backend(self, name: str, document: BackendConfig, chance: Callable[[], float]) -> Backend:
        """Drafts the backend ``name``; addresses, limiter and health that are in force are kept."""
        known = self._registry
        places = range(len(document.addresses))
        self.limiters[name] = known.limiters.get(name) or ConcurrencyLimiter(_limit(document))
        self.healths[name] = known.healths.get(name) or health.Health(name, known.tell)
        backend = Backend(
            name,
            [self._address(document, place, shadow=False) for place in places],
            self.limiters[name],
            chance,
            health=self.healths[name],
            balance=document.balance,
            shadows=[self._address(document, place, shadow=True) for place in places],
        )
        self.backends[name], self.documents[name] = backend, document
        return backend

    def bucket(self, key: str, rate: float) -> Bucket:
        """The token bucket of an API key; the one in force if its rate is the same."""
        bucket = self._registry.buckets.get((key, rate)) or Bucket(rate, part=self._registry.part)
        return self.buckets.setdefault((key, rate), bucket)

    def _address(self, document: BackendConfig, place: int, *, shadow: bool) -> Address:
        found, key = document.addresses[place], (endpoint(document, place), shadow)
        context = offer = None
        if found.secure:
            context = self._context_of(document.tls, "http/1.1")
        if found.secure and document.http2:
            offer = self._context_of(document.tls, "h2")
        elif found.secure and document.alpn:
            offer = self._context_of(document.tls, "h2", "http/1.1")
        address = self.addresses.get(key) or self._registry.addresses.get(key)
        if address is None:
            name = (document.tls.server_name or found.host) if found.secure else None
            address = new_address(key[0], self._registry.loop, context, offer, name)
        self.addresses[key] = address
        silence = max(_silence(document), self.options[address].silence if address in self.options else 0.0)
        self.options[address] = Options(context, offer, document.pool.idle, document.pool.size, silence)
        return address

    def _context_of(self, tls: BackendTlsConfig, *protocols: str) -> ssl.SSLContext:
        context = self._contexts.get((tls, protocols))
        if context is None:
            context = self._contexts[tls, protocols] = self._context(tls)
            context.set_alpn_protocols(protocols)
        return context


def new_address(
    endpoint: Endpoint,
    loop: asyncio.AbstractEventLoop,
    context: ssl.SSLContext | None,
    offer: ssl.SSLContext | None,
    server_name: str | None,
    *,
    max_idle: int = MAX_IDLE_CONNECTIONS,
) -> Address:
    """An address of the class that the endpoint's scheme asks for. ``offer``: a context that offers HTTP/2."""
    if not endpoint.http2 and offer is None:
        return Address(endpoint, loop, context=context, server_name=server_name, max_idle=max_idle)
    kind = Http2Address if endpoint.http2 else NegotiatedAddress
    return kind(endpoint, loop, context=context, offer=offer, server_name=server_name, max_idle=max_idle)


def endpoint(backend: BackendConfig, place: int) -> Endpoint:
    """The key of the address number ``place`` of ``backend``."""
    found = backend.addresses[place]
    tls = f"{_tls_digest(backend.tls)} {backend.alpn}" if found.secure else ""
    return Endpoint(found.scheme, found.host, found.port, tls)


@lru_cache(maxsize=1024)
def _tls_digest(tls: BackendTlsConfig) -> str:
    return sha256(tls.model_dump_json().encode()).hexdigest()


def _silence(backend: BackendConfig) -> float:
    return backend.ejection.silence if backend.ejection is not None else 0.0


def _limit(backend: BackendConfig) -> Limit:
    return Limit(backend.limit.in_flight, backend.limit.waiting, backend.limit.wait)


def _settings(backend: BackendConfig) -> ejection.Settings:
    rules = backend.ejection
    if rules is None:
        return replace(health.OFF, slow_start=backend.slow_start)
    return ejection.Settings(
        consecutive_local=rules.local_consecutive,
        consecutive_remote=rules.consecutive,
        interval=rules.window,
        failure_share=2.0 if rules.rate is None else rules.rate,
        min_requests=rules.min_requests,
        base=rules.base,
        longest=rules.max,
        max_ejected=rules.max_share,
        panic=rules.panic,
        slow_start=backend.slow_start,
    )
