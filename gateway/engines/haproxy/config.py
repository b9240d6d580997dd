"""The part of a node's configuration that follows from the document, and the maps of its routes.

One map finds the route of a path, another holds the ranges of each route with variants and stamps. One look-up yields
all ranges of a route, so a decision is true to its epoch while they are replaced. A request costs the same however
many routes there are, but for those with conditions besides the path.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from gateway.compile.plans import salt
from gateway.config.document import Document
from gateway.config.route import MatchConfig, RouteConfig
from gateway.engines.haproxy.backends import backend_lines, cas, milliseconds, resolvers, word
from gateway.engines.offers import Assigned, ordered, salt_text
from gateway.engines.rows import ABSENT
from gateway.errors import render
from policies.allocation.cells import PARTS, Cells

FILES: Final = "TURNOUT_FILES"
"""Environment variable with the node's folder."""
BIND: Final = "TURNOUT_BIND"
"""Environment variable with what follows ``bind``."""
VERSION: Final = "TURNOUT_VERSION"
"""Environment variable with the version of the configuration that a worker has."""
RANGES: Final = "ranges.map"
"""The ranges of each route; its entries change while a node runs."""
PATHS: Final = "paths.map"
"""The route of each prefix, with the place of its unit's header, and its salt."""
RING: Final = "turnout"
"""Where a worker keeps its rows until the agent has read them."""
AGENT_SOCKET: Final = "agent.sock"
"""Where the agent listens for workers that have started: their first health check greets it. HAProxy spreads the first
checks of all servers, also of the user's own, over ``fastinter``: without one, over ``inter``."""
ROW: Final = (
    "%[sc0_inc_gpc0]",
    "%[var(txn.decision)]",
    "%b",
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
    "%s",
)
"""HAProxy's names of the fields of a row, in the order in which `gateway.engines.haproxy.rows` reads them. The first
numbers the rows of a worker, so a gap tells how many were lost."""
TEXTS: Final = (
    "%[var(txn.request_id),bytes(0,129)]",  # the record has ids of up to 128 bytes
    "%[var(txn.unit),bytes(0,7500)]",  # HAProxy hands over no row of 16 KiB (tune.bufsize) or more
)
"""What clients wrote, after the fields."""
TEXT: Final = "\r"
"""Before each of these: HAProxy refuses a header with this character, as it does one with a line end."""
MAX_RANGES_BYTES: Final = 15_000
"""Of a route: HAProxy may take no command of more than 15 KiB (tune.bufsize without tune.maxrewrite)."""
MAX_ROW_BYTES: Final = 65_535
RING_BYTES: Final = 16 * 1024 * 1024
"""Rows that wait in a node while its agent does not read."""
_ESCAPED: Final = TEXT.encode("unicode_escape").decode()
_UNKNOWN: Final = "turnout-unknown"
"""The backend of requests of no route, and of those of a route without ranges: it has no servers, so these get 503."""
NUMBERS: Final = "turnout-rows"
"""The table with the last row's number."""
_DOTS: Final = r"(^|[/\\;]|%2f|%5c)(\.|%2e){1,2}([/\\;]|%2f|%5c|$)"
"""Dot segments, as any server may read them: they would climb out of the route's prefix."""


class Config(NamedTuple):
    """HAProxy's sections for the routes of a fleet."""

    text: str
    version: str
    files: dict[str, str]
    """Files that they name, besides the ranges."""


def config(document: Document, engine: str, most: int) -> Config:
    """The sections for the routes of a fleet, none with more than ``most`` ranges.

    Reads the CAs that backends name; raises OSError.
    """
    names = ordered(document, document.engine_routes(engine))
    routes = {name: document.routes[name] for name in names}
    files, entries = cas(document, routes), _entries(document, routes)
    plain = {name: route for name, route in routes.items() if _is_plain(route.match)}
    paths = "".join(
        f"{route.match.path.rstrip('/')}{end} {entries[name]}\n"
        for name, route in reversed(plain.items())  # of equal paths, the last one counts
        for end in ("/:" if route.match.path != "/" else "/")
    )
    sealed = document.engines[engine].ids == "sealed"
    body = "\n".join(_sections(document, routes, entries, most, files, sealed=sealed))
    version = hashlib.sha256(f"{body}\n{paths}".encode()).hexdigest()[:16]
    text = f"global\n  setenv {VERSION} {version}\n  stats timeout 1d\n  stats maxconn 100\n{body}\n"
    return Config(text, version, {**dict(files.values()), PATHS: paths})


def _entries(document: Document, routes: Mapping[str, RouteConfig]) -> dict[str, str]:
    """What a request needs of its route: the name, the place of the unit's header, and the salt."""
    headers = _headers(routes)
    return {
        name: f"{name}|{headers.index(header) if (header := _header(route)) else ABSENT}"
        f"|{salt_text(salt(document, name))}"
        for name, route in routes.items()
    }


def _headers(routes: Mapping[str, RouteConfig]) -> list[str]:
    """Headers with units, each once."""
    return list(dict.fromkeys(header for route in routes.values() if (header := _header(route))))


def _header(route: RouteConfig) -> str | None:
    return route.unit.header if route.unit is not None else None


def _is_plain(match: MatchConfig) -> bool:
    """Whether the route is found by its path alone, as an entry of a map."""
    path = match.path
    ends = path == "/" or not path.endswith("/")
    return (
        ends and path.isascii() and path.isprintable() and " " not in path and match == MatchConfig(path=path)
    )


def ranges(route: str, assigned: Assigned) -> str:
    """The ranges of one route, with the key of the seal if nodes seal requests."""
    text = _ranges(route, assigned, assigned.cells)
    # A rollback that HAProxy cannot take is worse than units that move.
    return text if len(text) <= MAX_RANGES_BYTES else _ranges(route, assigned, assigned.cells.merged)


def _ranges(route: str, assigned: Assigned, parts_of: Cells) -> str:
    parts, end = [], 0
    for variant, size in parts_of.segments:
        end += size
        part = f"{end}|{route}:{variant}|{assigned.stamps[variant]}"
        key = assigned.keys.get(variant)
        parts.append(part if key is None else f"{part}|{b64encode(key).decode()}")
    return "~".join(parts)


def _sections(
    document: Document,
    routes: Mapping[str, RouteConfig],
    entries: Mapping[str, str],
    most: int,
    files: Mapping[str, tuple[str, str]],
    *,
    sealed: bool,
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
backend turnout-agent from turnout
  server agent "unix@${{{FILES}}}/{AGENT_SOCKET}" check inter 1h fastinter 1s downinter 1s rise 1
ring {RING}
  format raw
  maxlen {MAX_ROW_BYTES}
  size {RING_BYTES}
backend {NUMBERS} from turnout
  stick-table type integer size 1 store gpc0"""
    yield from resolvers(document, routes)
    yield from _frontend(routes, entries, most, sealed=sealed)
    for name, route in routes.items():
        for variant in route.variants:
            yield from backend_lines(document, name, variant, files)


def _frontend(
    routes: Mapping[str, RouteConfig], entries: Mapping[str, str], most: int, *, sealed: bool
) -> Iterator[str]:
    """The listener, and what responds to requests of no route.

    A worker that is being replaced empties its table once it has no connections any more, so that those which it still
    accepts have no numbers.
    """
    yield f"""\
frontend turnout from turnout
  bind "${{{BIND}[*]}}"
  log ring@{RING} len {MAX_ROW_BYTES} format raw local0
  log-format "{" ".join(ROW)}{"".join(_ESCAPED + text for text in TEXTS)}"
  acl inside var(txn.pick),field(1,|),sub(txn.part) gt 0
  acl named var(txn.request_id) -m len gt 0
  acl dots path -m reg -i {word(_DOTS)}
  tcp-request connection track-sc0 int(1) table {NUMBERS} unless {{ stopping }}
  http-request set-var(txn.found) "path,concat(/),map_beg(${{{FILES}}}/{PATHS})" if !dots"""
    # The last one that matches counts, so the most specific comes last.
    for name in reversed(list(routes)):
        if not _is_plain(routes[name].match):
            yield from _conditional(name, routes, entries)
    headers = _headers(routes)
    shared = len(headers) == 1 and all(map(_header, routes.values()))
    for place, header in enumerate(headers):
        condition = "" if shared else f" if {{ var(txn.found),field(2,|) -m str {place} }}"
        yield f"  http-request set-var(txn.unit) req.fhdr({_argument(header)}){condition}"
    # Without the sign: HAProxy takes 64 bits for a signed number, whose remainder may be negative.
    hashed = f"concat(,txn.unit),xxh64,and({2**63 - 1}),mod({PARTS})"
    yield f"""\
  http-request set-var(txn.part) rand({PARTS})
  http-request set-var(txn.part) var(txn.found),field(3,|),{hashed} if {{ var(txn.unit) -m len gt 0 }}
  http-request set-var(txn.ranges) "var(txn.found),field(1,|),map_str(${{{FILES}}}/{RANGES})"
  http-request set-var(txn.pick) var(txn.ranges),field(1,~)"""
    for place in range(2, most + 1):
        yield f"  http-request set-var(txn.pick) var(txn.ranges),field({place},~) unless inside"
    yield """\
  http-request set-var-fmt(txn.decision) %[var(txn.pick),field(3,|)].%[date(0,ms)].%[uuid]
  http-request set-var(txn.request_id) req.fhdr(x-request-id)
  http-request set-header x-request-id %[var(txn.decision),field(3,.)] unless named
  http-request set-var(txn.request_id) var(txn.decision),field(3,.) unless named"""
    if sealed:
        yield """\
  http-request set-var(txn.key) var(txn.pick),field(4,|)
  http-request set-var(txn.seal) var(txn.decision),hmac(sha256,txn.key),bytes(0,16),hex,lower
  http-request set-var-fmt(txn.decision) %[var(txn.decision)]~%[var(txn.seal)]"""
    # Not logged: it has no decision, so no row.
    unknown = word(render("unknown_route").decode())
    yield f"""\
  http-request set-var(txn.served) str(-)
  http-request set-header x-decision-id %[var(txn.decision)]
  http-request del-header x-variant
  use_backend %[var(txn.pick),field(2,|)]
  default_backend {_UNKNOWN}
backend {_UNKNOWN} from turnout
  http-request set-log-level silent
  http-request return status 404 content-type application/json string {unknown} unless {{ var(txn.found) -m found }}"""


def _conditional(name: str, routes: Mapping[str, RouteConfig], entries: Mapping[str, str]) -> Iterator[str]:
    """A route with more conditions than a prefix: it replaces a route that was found, unless that has a longer path."""
    match, conditions = routes[name].match, ["!dots", f"{name}:path"]
    yield from _acls(name, match)
    conditions += [f"{name}:host"] if match.host else []
    conditions += [f"{name}:method"] if match.methods else []
    conditions += [f"{name}:header{index}" for index in range(len(match.headers))]
    conditions += [f"!{name}:repeated"] if match.headers else []
    before = list(routes)[: list(routes).index(name)]
    longer = [other for other in before if routes[other].match.path.startswith(match.path)]
    yield from (f"  acl {name}:longer var(txn.found) -m str -- {entries[other]}" for other in longer)
    conditions += [f"!{name}:longer"] if longer else []
    yield f"  http-request set-var(txn.found) str({entries[name]}) if {' '.join(conditions)}"


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
        how = f"str -- {word(value, 'latin-1')}" if value else "len 0"
        yield f"  acl {name}:header{index} req.fhdr({_argument(field)}) -m {how}"
        # Any of several values would match; the gateway joins them.
        yield f"  acl {name}:repeated req.fhdr_cnt({_argument(field)}) gt 1"


def _argument(header: str) -> str:
    """The name of a header as an argument, in which an apostrophe would begin quoted text."""
    return word(f'"{header}"' if "'" in header else header)
