"""One HAProxy backend for each variant of a route."""

from __future__ import annotations

import hashlib
import math
import re
import string
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.config.backend import Address, BackendConfig, is_ip
from gateway.config.document import Document
from gateway.config.files import certificates
from gateway.config.route import RouteConfig

_SAFE: Final = frozenset((string.ascii_letters + string.digits + "/._:;,=@+*?!^&|<>()[]-~").encode())
"""Bytes that mean themselves in a configuration; every other one is written as ``\\xHH``."""
_BALANCE: Final = {"least_load": "leastconn", "round_robin": "roundrobin", "random": "random"}


def word(text: str, encoding: str = "utf-8") -> str:
    """``text`` as one word of a configuration. Values of headers are ISO 8859-1."""
    raw = text.encode(encoding)
    return "".join(chr(byte) if byte in _SAFE else f"\\x{byte:02x}" for byte in raw) or "''"


def milliseconds(seconds: float) -> str:
    """A duration in HAProxy's words; it knows nothing shorter than a millisecond, and 0 means no limit."""
    return f"{max(1, round(1000 * seconds))}ms"


def cas(document: Document, routes: Mapping[str, RouteConfig]) -> dict[str, tuple[str, str]]:
    """CAs that backends of ``routes`` name → name and text of the file that a node gets. Raises OSError."""
    backends = [document.backends[v.backend] for route in routes.values() for v in route.variants.values()]
    found = {}
    for path in {b.tls.ca for b in backends if b.addresses[0].secure and b.tls.verify and b.tls.ca}:
        text = certificates(path)
        found[path] = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.pem", text
    return found


def resolvers(document: Document, routes: Mapping[str, RouteConfig]) -> Iterator[str]:
    """How names of backends are resolved again while the node runs."""
    backends = [document.backends[v.backend] for route in routes.values() for v in route.variants.values()]
    if any(not is_ip(at.host) for backend in backends for at in backend.addresses):
        # A name that cannot be resolved for a time keeps its last address.
        holds = "\n".join(f"  hold {what} 1d" for what in ("nx", "refused", "timeout", "other", "obsolete"))
        yield f"resolvers turnout\n  parse-resolv-conf\n{holds}"


def backend_lines(
    document: Document, name: str, variant: str, files: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """The backend of one variant. ``files``: as `cas` made them."""
    route, backend = document.routes[name], document.backends[document.routes[name].variants[variant].backend]
    yield f"""\
backend {name}:{variant} from turnout
  balance {_BALANCE[backend.balance]}
  timeout connect {milliseconds(route.timeouts.connect)}
  timeout server {milliseconds(route.timeouts.first_byte)}
  timeout tunnel {milliseconds(route.timeouts.idle)}
  timeout queue {milliseconds(backend.limit.wait)}
  http-request deny deny_status 503 if {{ be_conn gt {backend.limit.in_flight + backend.limit.waiting} }}
  http-response set-var(txn.served) str({variant})
  http-after-response set-header x-decision-id %[var(txn.decision)].%[var(txn.served)]
  http-after-response set-header x-variant %[var(txn.served)]
  http-after-response set-header x-request-id %[var(txn.request_id)]"""
    yield from _retries(route, backend)
    yield from _path(route.match.path, route.variants[variant].rewrite.path, backend.addresses[0].path)
    yield from _fields(route, variant, backend)
    yield from _health(backend)
    for index, at in enumerate(backend.addresses):
        yield f"  server {_server_name(at, index)} {_at(at)} {' '.join(_options(backend, at, files))}"


def _retries(route: RouteConfig, backend: BackendConfig) -> Iterator[str]:
    on, kinds = route.retry.on, []
    if on.connect:
        kinds.append("conn-failure")
    if route.retry.replayable:
        kinds += ["empty-response", "junk-response"] if on.reset else []
        kinds += ["response-timeout"] if on.timeout else []
        kinds += [str(status) for status in sorted(on.status)]
    yield f"  retries {route.retry.attempts - 1 if kinds else 0}"
    yield f"  retry-on {' '.join(kinds) or 'none'}"
    if len(backend.addresses) > 1:
        yield "  option redispatch 1"


def _path(prefix: str, other: str | None, base: str) -> Iterator[str]:
    """``base`` before the path, and ``other`` in place of ``prefix``.

    As in the gateway itself, exactly one slash stands between a replacement and what follows it.
    """
    set_path = "  http-request set-path"
    if other is None:
        if base:
            yield f"{set_path} {_format(base)}%[path]"
        return
    slash = "/" if prefix.endswith("/") else ""
    yield f"  http-request set-var(txn.rest) path,bytes({len(prefix.encode())})"
    yield f"{set_path} {_format(base + other.rstrip('/') + slash)}%[var(txn.rest)] if {{ var(txn.rest) -m len gt 0 }}"
    yield f"{set_path} {_format(base + other)} unless {{ var(txn.rest) -m len gt 0 }}"


def _format(text: str, encoding: str = "utf-8") -> str:
    return word(text.replace("%", "%%"), encoding)


def _fields(route: RouteConfig, variant: str, backend: BackendConfig) -> Iterator[str]:
    section = route.variants[variant]
    for field, value in {**backend.headers, **section.headers}.items():
        # HAProxy takes an empty word for none; an unset variable is empty too.
        text = _format(value, "latin-1") if value else "%[var(txn.none)]"
        yield f"  http-request set-header {word(field)} {text}"
    if section.rewrite.host is not None:
        yield f"  http-request set-header host {_format(section.rewrite.host)}"
    elif backend.host == "backend" and len(backend.addresses) == 1:
        yield f"  http-request set-header host {_format(backend.addresses[0].authority)}"
    elif backend.host == "backend":
        yield "  http-send-name-header host"


def _health(backend: BackendConfig) -> Iterator[str]:
    health = backend.health
    if health is None:
        return
    path = ("" if health.from_root else backend.addresses[0].path) + health.path
    host = backend.addresses[0].authority
    yield "  option httpchk"
    # Unlike the value of a field, the path is not a format: HAProxy would send two % for each.
    yield f"  http-check send meth {word(health.method)} uri {word(path)} ver HTTP/1.1 hdr host {_format(host)}"
    runs = ",".join(f"{low}-{high}" for low, high in health.status_runs)
    yield f"  http-check expect status {runs}"
    yield f"  timeout check {milliseconds(health.timeout)}"


def _options(backend: BackendConfig, at: Address, files: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield f"maxconn {math.ceil(backend.limit.in_flight / len(backend.addresses))}"
    yield f"pool-max-conn {backend.pool.size if backend.pool.idle else 0}"
    yield f"pool-purge-delay {milliseconds(backend.pool.idle)}"
    yield from _checks(backend)
    if at.secure:
        yield from _tls(backend, at, files)
    if not is_ip(at.host):
        yield "resolvers turnout resolve-prefer ipv4 init-addr last,libc,none"


def _checks(backend: BackendConfig) -> Iterator[str]:
    """Probes, and ejection. Without probes, a connection after the time of the ejection ends it.

    A backend's only address is not ejected: its errors are better than none at all.
    """
    health, ejection = backend.health, backend.ejection if len(backend.addresses) > 1 else None
    if health is not None:
        yield f"check inter {milliseconds(health.every)} rise {health.healthy} fall {health.unhealthy}"
    elif ejection is not None:
        every = milliseconds(ejection.base)
        yield f"check inter 1d fastinter {every} downinter {every} rise 1"
    if ejection is not None:
        yield f"observe layer7 error-limit {ejection.consecutive} on-error mark-down"
    if backend.slow_start and (health is not None or ejection is not None):
        yield f"slowstart {milliseconds(backend.slow_start)}"


def _tls(backend: BackendConfig, at: Address, files: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    name = backend.tls.server_name or at.host
    yield "ssl alpn http/1.1"
    if not is_ip(name):
        yield f"sni str({name}) check-sni {name}"
    if not backend.tls.verify:
        yield "verify none"
        return
    ca = '"${TURNOUT_FILES}/' + files[backend.tls.ca][0] + '"' if backend.tls.ca else "@system-ca"
    yield f"verify required verifyhost {name} ca-file {ca}"


def _server_name(at: Address, index: int) -> str:
    """The host field where `http-send-name-header` sends it."""
    name = at.authority
    return name if re.fullmatch(r"[A-Za-z0-9._:-]+", name) else f"address{index}"


def _at(at: Address) -> str:
    return f"[{at.host}]:{at.port}" if ":" in at.host else f"{at.host}:{at.port}"
