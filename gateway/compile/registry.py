"""The addresses, gates and health of one process, and how they are to be for a configuration."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Callable
from dataclasses import replace

from gateway.config.document import Backend as BackendDocument
from gateway.config.document import BackendTls, Document
from gateway.dataplane.auth import Bucket
from gateway.transport import health
from gateway.transport.pool import Address, Backend, Endpoint, Gate, Limit
from policies import ejection


class Registry:
    """The addresses, gates and health of one process. They outlive the configurations that name them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: health.Tell) -> None:
        """``tell`` hears of what becomes of addresses' health."""
        self._loop = loop
        self._tell = tell
        self.addresses: dict[tuple[Endpoint, bool], Address] = {}
        self.gates: dict[str, Gate] = {}
        self.healths: dict[str, health.Health] = {}
        self.buckets: dict[tuple[str, float], Bucket] = {}

    def address(self, backend: BackendDocument, place: int, *, shadow: bool = False) -> Address:
        """The address number ``place`` of ``backend``; shadows have connections of their own."""
        found = backend.addresses[place]
        tls = _tls_digest(backend) if found.secure else ""
        endpoint = Endpoint(found.scheme, found.host, found.port, tls)
        known = self.addresses.get((endpoint, shadow))
        if known is None:
            context = client_context(backend.tls) if found.secure else None
            name = (backend.tls.server_name or found.host) if found.secure else None
            known = Address(endpoint, self._loop, context=context, server_name=name)
            self.addresses[endpoint, shadow] = known
        known.idle_limit = backend.pool.idle
        known.idle_most = backend.pool.size
        return known

    def backend(self, name: str, document: BackendDocument, chance: Callable[[], float]) -> Backend:
        """The backend ``name`` as ``document`` has it, with what is known of its addresses."""
        addresses = [self.address(document, place) for place in range(len(document.addresses))]
        found = self.healths.setdefault(name, health.Health(name, self._tell))
        found.configure(addresses, _settings(document))
        rules = document.ejection
        silence = rules.silence if rules is not None else 0.0
        found.wary = silence > 0.0
        for address in addresses:  # which several backends may name
            address.silence = max(address.silence, silence)
        gate = self.gate(name, document)
        return Backend(name, addresses, gate, chance, health=found, balance=document.balance)

    def probe_address(self, backend: BackendDocument, place: int) -> Address:
        """The address number ``place`` for a probe: with a connection of its own, which never rests."""
        known = self.address(backend, place)
        return Address(
            known.endpoint, self._loop, context=known.context, server_name=known.server_name, idle_most=0
        )

    def gate(self, name: str, backend: BackendDocument) -> Gate:
        limit = Limit(backend.limit.in_flight, backend.limit.waiting, backend.limit.wait)
        gate = self.gates.setdefault(name, Gate(limit))
        gate.limit = limit
        return gate

    def retire(self, document: Document) -> None:
        """Closes the resting connections of addresses that no backend names any more."""
        named = {
            (found.scheme, found.host, found.port)
            for b in document.backends.values()
            for found in b.addresses
        }
        for key in [k for k in self.addresses if (k[0].scheme, k[0].host, k[0].port) not in named]:
            self.addresses.pop(key).close()
        for name in [n for n in self.healths if n not in document.backends]:
            del self.healths[name]


def _settings(backend: BackendDocument) -> ejection.Settings:
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


def _tls_digest(backend: BackendDocument) -> str:
    return hashlib.sha256(
        json.dumps(backend.tls.model_dump(mode="json"), sort_keys=True).encode()
    ).hexdigest()


def client_context(tls: BackendTls) -> ssl.SSLContext:
    """How we speak TLS to others. Raises ssl.SSLError or OSError for files that can't be used."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.set_alpn_protocols(["http/1.1"])
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
