"""The part of a node's configuration that follows from the document, and the maps of ranges.

A map holds, for each range of [0, 10^9), the variant and its stamp. One look-up yields both, so a decision is true to
its epoch while the map is replaced.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from gateway.compile.plans import salt
from gateway.config.document import Document, MatchConfig, RouteConfig
from gateway.engines.haproxy.backends import backend_lines, cas, milliseconds, resolvers, word
from gateway.engines.offers import Assigned, ordered, salt_text
from policies.allocation.cells import PARTS

FILES: Final = "TURNOUT_FILES"
"""Environment variable with the node's folder."""
BIND: Final = "TURNOUT_BIND"
"""Environment variable with what follows ``bind``."""
VERSION: Final = "TURNOUT_VERSION"
"""Environment variable with the version of the configuration that a worker has."""
ROWS_SOCKET: Final = "rows.sock"
DATAGRAM_SOCKET: Final = "rows.dgram"
ROW: Final = (
    "%pid",
    "%[sc0_inc_gpc0]",
    "%[var(txn.decision)]",
    "%[var(txn.route)]",
    "%[var(txn.served)]",
    "%ST",
    "%ts",
    "%rc",
    "%TR",
    "%Tw",
    "%Tc",
    "%Tr",
    "%Ta",
    "%U",
    "%B",
    "%si:%sp",
    "%[var(txn.request_id),hex]",
    "%[var(txn.unit),hex]",
)
"""HAProxy's names of the fields of a row, in the order in which `gateway.engines.haproxy.rows` reads them. The first
two number the rows of a worker, so a gap tells how many were lost."""
MAX_ROW_BYTES: Final = 65_535
RING_BYTES: Final = 16 * 1024 * 1024
"""Rows that wait in a node while its agent does not read."""
_DOTS: Final = r"(^|[/\\;]|%2f|%5c)(\.|%2e){1,2}([/\\;]|%2f|%5c|$)"
"""Dot segments, as any server may read them: they would climb out of the route's prefix."""


class Config(NamedTuple):
    """HAProxy's sections for the routes of a fleet."""

    text: str
    version: str
    files: dict[str, str]
    """Files that they name, besides the ranges."""


def config(document: Document, engine: str) -> Config:
    """The sections for the routes of a fleet. Reads the CAs that backends name; raises OSError."""
    names = ordered(document, document.engine_routes(engine))
    routes = {name: document.routes[name] for name in names}
    files = cas(document, routes)
    body = "\n".join(_sections(document, routes, files))
    version = hashlib.sha256(body.encode()).hexdigest()[:16]
    return Config(f"global\n  setenv {VERSION} {version}\n{body}\n", version, dict(files.values()))


def map_name(route: str) -> str:
    """The file with the ranges of a route."""
    return f"{route}.map"


def ranges(assigned: Assigned, key: Callable[[str], bytes] | None) -> str:
    """The map of one route. ``key``: of the seal of a stamp's requests, or None if they have none."""
    lines, start = [], 0
    for variant, parts in assigned.cells.segments:
        stamp = assigned.stamps[variant]
        seal = "" if key is None else f"|{b64encode(key(stamp)).decode()}"
        lines.append(f"{start}:{start + parts - 1} {variant}|{stamp}{seal}\n")
        start += parts
    return "".join(lines)


def _sections(
    document: Document, routes: Mapping[str, RouteConfig], files: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    idle = max((route.timeouts.idle for route in routes.values()), default=30.0)
    yield f"""\
defaults turnout
  mode http
  timeout connect 1s
  timeout server 30s
  timeout client {milliseconds(idle)}
  timeout http-request 30s
  option abortonclose
  option idle-close-on-response
ring turnout
  format raw
  maxlen {MAX_ROW_BYTES}
  size {RING_BYTES}
  timeout connect 1s
  timeout server 10s
  server agent "unix@${{{FILES}}}/{ROWS_SOCKET}" log-proto octet-count
backend turnout-rows from turnout
  stick-table type integer size 1 store gpc0"""
    yield from resolvers(document, routes)
    yield from _frontend(document, routes)
    for name, route in routes.items():
        for variant in route.variants:
            yield from backend_lines(document, name, variant, files)


def _frontend(document: Document, routes: Mapping[str, RouteConfig]) -> Iterator[str]:
    yield f"""\
frontend turnout from turnout
  bind "${{{BIND}[*]}}"
  log ring@turnout len {MAX_ROW_BYTES} format raw local0
  log "unix@${{{FILES}}}/{DATAGRAM_SOCKET}" len {MAX_ROW_BYTES} format raw local0
  log-format "{" ".join(ROW)}"
  acl routed var(txn.route) -m found
  acl sticky var(txn.unit) -m found
  acl sealed var(txn.key) -m len gt 0
  acl dots path -m reg -i {word(_DOTS)}"""
    for name, route in routes.items():
        yield from _acls(name, route.match)
    yield "  http-request track-sc0 int(1) table turnout-rows"
    for name, route in routes.items():
        yield from _choice(name, route, salt_text(salt(document, name)))
    error = {"error": {"code": "unknown_route", "message": "No route matches this path and method."}}
    yield f"""\
  http-request set-log-level silent unless routed
  http-request return status 404 content-type application/json string {word(json.dumps(error))} unless routed
  http-request set-var(txn.variant) var(txn.pick),field(1,|)
  http-request set-var-fmt(txn.decision) %[var(txn.pick),field(2,|)].%[date(0,ms)].%[uuid]
  http-request set-var(txn.key) var(txn.pick),field(3,|)
  http-request set-var(txn.seal) var(txn.decision),hmac(sha256,txn.key),bytes(0,16),hex,lower if sealed
  http-request set-var-fmt(txn.decision) %[var(txn.decision)]~%[var(txn.seal)] if sealed
  http-request set-var(txn.served) str(-)
  http-request set-header x-request-id %[uuid] unless {{ req.fhdr(x-request-id) -m len gt 0 }}
  http-request set-var(txn.request_id) req.fhdr(x-request-id)
  http-request set-header x-decision-id %[var(txn.decision)]
  http-request del-header x-variant
  http-after-response set-header x-decision-id %[var(txn.decision)].%[var(txn.served)] if routed
  http-after-response set-header x-variant %[var(txn.served)] if routed
  http-after-response set-header x-request-id %[var(txn.request_id)] if routed
  use_backend %[var(txn.route)]:%[var(txn.variant)]"""


def _acls(name: str, match: MatchConfig) -> Iterator[str]:
    """A prefix of whole segments; ``:`` ends one too (``/v1/models/m:predict``)."""
    if match.path.endswith("/"):
        yield f"  acl {name}:path path -m beg -- {word(match.path)}"
    else:
        yield f"  acl {name}:path path -m str -- {word(match.path)}"
        yield f"  acl {name}:path path -m beg -- {word(match.path + '/')} {word(match.path + ':')}"
    for host in match.host:
        how, what = ("end", host[1:]) if host.startswith("*.") else ("str", host)
        yield f"  acl {name}:host req.fhdr(host),host_only -m {how} -i -- {word(what)}"
    for method in match.methods:
        yield f"  acl {name}:method method {word(method)}"
    for index, (field, value) in enumerate(match.headers.items()):
        yield f"  acl {name}:header{index} req.fhdr({word(field)}) -m str -- {word(value)}"


def _choice(name: str, route: RouteConfig, salt: str) -> Iterator[str]:
    match = route.match
    conditions = [f"{name}:path"]
    conditions += [f"{name}:host"] if match.host else []
    conditions += [f"{name}:method"] if match.methods else []
    conditions += [f"{name}:header{index}" for index in range(len(match.headers))]
    mine = f"{{ var(txn.route) -m str -- {name} }}"
    yield f"  http-request set-var(txn.route) str({name}) if !routed !dots {' '.join(conditions)}"
    if route.unit is not None and route.unit.header is not None:
        field = f"req.fhdr({word(route.unit.header)})"
        yield f"  http-request set-var(txn.unit) {field} if {mine} {{ {field} -m len gt 0 }}"
        hashed = f"str({salt}),concat(,txn.unit),xxh64,and({2**63 - 1}),mod({PARTS})"
        yield f"  http-request set-var(txn.part) {hashed} if {mine} sticky"
    yield f"  http-request set-var(txn.part) rand({PARTS}) if {mine} !sticky"
    found = f'"var(txn.part),map_int(${{{FILES}}}/{map_name(name)})"'
    yield f"  http-request set-var(txn.pick) {found} if {mine}"
