"""The real HAProxy takes what is generated from every option; what it cannot do is refused with the remedy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from random import Random
from unittest.mock import Mock

import pytest

from gateway.compile.plans import salt
from gateway.config.document import Document
from gateway.config.engine import HAPROXY_HEADERS, HAPROXY_VARIANTS
from gateway.config.load import ConfigError, load
from gateway.engines.haproxy.agent import HaproxyFollower
from gateway.engines.haproxy.bootstrap import Node, bootstrap
from gateway.engines.haproxy.config import MAX_RANGES_BYTES, RANGES, config, ranges
from gateway.engines.haproxy.offers import HaproxyOffers
from gateway.engines.offers import Assigned, InEffect, assigned
from gateway.record.decision_id import Sealer
from policies.allocation.bucketing import allocation
from policies.allocation.cells import PARTS, cells
from policies.allocation.model import Allocation
from tests.e2e.test_tls import Issuer
from tests.engines.haproxy_node import HAPROXY, NEEDS_HAPROXY
from tests.engines.node import Backend, wait_for

pytestmark = NEEDS_HAPROXY

BACKENDS = """
  a: {url: "http://127.0.0.1:9001"}
  b:
    urls: ["http://localhost:9002/base", "http://127.0.0.1:9003/base"]
    balance: round_robin
    headers: {x-key: "100% 'é' \\"#\\" $HOME \\\\"}
    health: {path: /ready, status: [200, 204], every: 1s}
    ejection: {consecutive: 3}
    limit: {in_flight: 4, waiting: 0, wait: 0s}
    pool: {idle: 0s}
    slow_start: 5s
  c: {url: "https://localhost", balance: random, ejection: null, tls: {ca: "@DIR@/ca.pem", server_name: m.example}}
  d: {url: "https://127.0.0.1:9443", tls: {verify: false}}
  e: {url: "https://localhost:9444"}
  f: {urls: ["http://[::1]:9004", "http://[::1]:9005"], host: preserve}
  m:
    urls: ["http://127.0.0.1:9006", "http://127.0.0.1:9007"]
    health: {every: 24d, timeout: 24d, healthy: 2147483647, unhealthy: 2147483647}
    ejection: {consecutive: 2147483647}
    limit: {in_flight: 2147483647, waiting: 2147483647, wait: 24d}
    pool: {idle: 24d, size: 2147483647}
    slow_start: 24d
"""
CONFIG = """
engines: {edge: {type: haproxy, token: a-token-of-the-edge-engine, ids: sealed}}
metrics: {m: {type: boolean}}
backends: BACKENDS
routes:
  other: {match: {path: /other}, variants: {v: {backend: a}}, policy: {type: single, variant: v}}
  digits: ROUTE
"""
ROUTES = {
    "conditions": (
        "{match: {path: '/a\"b\\\\''c', host: ['*.example.com', a.b], methods: [GET, PUT], headers: {x-y: \"-i '#\"}},"
        " variants: {v: {backend: a}}, policy: {type: single, variant: v}}"
    ),
    "long conditions": (
        f"{{match: {{path: /{'p' * 2000}, host: [{', '.join(f'h{n}.models.example' for n in range(100))}],"
        f" methods: [GET, PUT], headers: {{{', '.join(f'x-{n}: v' for n in range(HAPROXY_HEADERS))}}}}},"
        " variants: {v: {backend: a}}, policy: {type: single, variant: v}}"
    ),
    "rewrites": (
        "{match: {path: /v2/models/m}, unit: {header: x-user}, variants: {one: {backend: a, rewrite: {path: /x/}}, "
        "two: {backend: b, rewrite: {host: h.example}, headers: {x-a: '%[rand]'}}}, "
        "policy: {type: split, weights: {one: 1, two: 2}}}"
    ),
    "tls": (
        "{match: {path: /}, variants: {one: {backend: c}, two: {backend: d}, three: {backend: e}}, "
        "policy: {type: bandit, metric: m}}"
    ),
    "hosts": "{match: {path: /}, variants: {v: {backend: f}, w: {backend: b}}, policy: {type: single, variant: v}}",
    "retries": (
        "{match: {path: /}, variants: {v: {backend: a}}, policy: {type: single, variant: v}, "
        "retry: {attempts: 3, replayable: true, on: {timeout: true}}, timeouts: {first_byte: 2s, idle: 2s}}"
    ),
    "largest": (
        "{match: {path: /}, variants: {v: {backend: m}}, policy: {type: single, variant: v}, "
        "timeouts: {connect: 24d, first_byte: 24d, idle: 24d}}"
    ),
    "once": (
        "{match: {path: /}, variants: {v: {backend: a}}, policy: {type: single, variant: v}, "
        "retry: {on: {connect: false}}}"
    ),
}


def text_of(route: str, folder: Path) -> str:
    text = CONFIG.replace("BACKENDS", BACKENDS).replace("@DIR@", str(folder))
    return text.replace("ROUTE", f"{route[:-1]}, engine: edge}}")


@pytest.mark.parametrize("name", ROUTES)
def test_the_real_haproxy_takes_it(name: str, tmp_path: Path) -> None:
    Issuer(tmp_path)
    write(load(text_of(ROUTES[name], tmp_path), source=name, env={}), tmp_path)
    assert HAPROXY is not None
    command = [HAPROXY, "-c", "-f", "node.cfg", "-f", "routes.cfg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def write(document: Document, folder: Path) -> None:
    """The files of a node."""
    made = config(document, "edge", 4)
    variants = document.routes["digits"].variants
    shares = cells(allocation(dict.fromkeys(variants, 1 / len(variants))))
    given = Assigned(shares, dict.fromkeys(variants, "STAMP"), salt(document, "digits"))
    # Not tmp_path: its name has what neither HAProxy nor the limit of a socket's path allows.
    node = Node("edge", "h1", "t" * 16, "https://turnout.example", "/proc/self/cwd", None)
    files = {**made.files, RANGES: f"digits {ranges('digits', given)}\n"}
    files |= {"routes.cfg": made.text, "node.cfg": bootstrap(node, "unix@listen.sock")}
    for file, text in files.items():
        (folder / file).write_text(text)


def test_the_path_of_a_probe_is_sent_as_it_is_written(tmp_path: Path) -> None:
    backend = Backend("a")
    text = text_of(ROUTES["once"], tmp_path).replace(
        '{url: "http://127.0.0.1:9001"}',
        f"{{url: {backend.url}/a%20b, health: {{path: /100%/%7E, every: 1s}}}}",
    )
    write(load(text, source="test", env={}), tmp_path)
    assert HAPROXY is not None
    with subprocess.Popen([HAPROXY, "-f", "node.cfg", "-f", "routes.cfg"], cwd=tmp_path) as haproxy:
        try:
            wait_for(lambda: backend.seen, "it probes the backend")
        finally:
            haproxy.terminate()
    backend.stop()
    assert backend.seen[0][0] == "/a%20b/100%/%7E"


def test_ranges_that_come_apart_have_a_rule_each(tmp_path: Path) -> None:
    document = load(text_of(ROUTES["hosts"], tmp_path), source="test", env={})
    offers = HaproxyOffers(Sealer([b"k" * 16]))

    def rules(*owners: int) -> int:
        bounds = tuple((n + 1) / len(owners) for n in range(len(owners)))
        effect = InEffect(len(owners), Allocation(("v", "w"), (0.5, 0.5), bounds, owners), 1.0)
        body = json.loads(offers.make(document, 1, "edge", "routes", {"digits": effect}).body)
        (resource,) = body["resources"]
        assert len(resource["ranges"]["digits"].split("~")) == len(owners)
        return int(resource["config"].count("set-var(txn.pick)"))

    assert rules(0, 1) == rules(0, 1, 0, 1) == 4
    assert rules(*(0, 1) * 3) == 8


def test_a_bandit_that_learns_reloads_no_node(tmp_path: Path) -> None:
    Issuer(tmp_path)
    document = load(text_of(ROUTES["tls"], tmp_path), source="test", env={})
    offers, chance = HaproxyOffers(Sealer([b"k" * 16])), Random(1)
    weights, last, configs = dict.fromkeys(document.routes["digits"].variants, 1.0), None, set()
    for epoch in range(1, 201):
        weights = {name: weight * chance.lognormvariate(0, 0.1) for name, weight in weights.items()}
        total = sum(weights.values())
        last = allocation({name: weight / total for name, weight in weights.items()}, previous=last)
        effects = {"digits": InEffect(epoch, last, 1.0)}
        (resource,) = json.loads(offers.make(document, 1, "edge", "routes", effects).body)["resources"]
        configs.add(resource["config_version"])
    assert len(configs) == 1


@pytest.mark.parametrize("count", [2, HAPROXY_VARIANTS])
def test_ranges_always_fit_into_a_command(count: int, tmp_path: Path) -> None:
    """HAProxy drops the connection of a longer one, or never responds, so a rollback would not reach it."""
    route, variants = "r" * 64, [f"{n:v<64}" for n in range(10, 10 + count)]
    document = load(text_of(ROUTES["hosts"], tmp_path), source="test", env={})
    owners = [n % count for n in range(4 * max(16, count))]
    bounds = tuple((n + 1) / len(owners) for n in range(len(owners)))
    found = Allocation(tuple(variants), (1 / count,) * count, bounds, tuple(owners))
    made = assigned(
        Sealer([b"k" * 16]), route, InEffect(2**40, found, 1e9), salt(document, "digits"), sealed=True
    )
    text = ranges(route, made)
    assert len(text) <= MAX_RANGES_BYTES
    ends, names = zip(*(part.split("|")[:2] for part in text.split("~")), strict=True)
    assert [name.partition(":")[2] for name in names] == variants
    assert int(ends[-1]) == PARTS


def test_a_damaged_file_of_a_node_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "routes.cfg").write_bytes(b"\xff")
    follower = HaproxyFollower(Mock(folder=tmp_path), Mock(), Mock())
    follower._write({"routes.cfg": "global\n"})
    assert (tmp_path / "routes.cfg").read_text() == "global\n"


@pytest.mark.parametrize(("url", "secure"), [("https://x", True), ("HTTPS://x", True), ("http://x", False)])
def test_an_https_gateway_is_verified_however_it_is_written(url: str, secure: bool) -> None:
    assert Node("edge", "h1", "t" * 16, url, "/tmp", None).secure is secure


async def test_an_offer_for_nodes_of_another_type_is_refused(tmp_path: Path) -> None:
    follower = HaproxyFollower(Mock(folder=tmp_path), Mock(), Mock())
    await follower.offer("1.1.a", b'{"version_info": "1.1.a", "resources": [{"name": "edge"}]}')
    assert "print its bootstrap again" in follower.refused
    assert [*tmp_path.iterdir()] == []


REFUSED = [
    (
        "variants: {" + ", ".join(f"v{n}: {{backend: a}}" for n in range(HAPROXY_VARIANTS + 1)) + "}",
        "variants",
        "at most 36 variants; write fewer",
    ),
    (
        "match: {path: /, headers: {" + ", ".join(f"x-{n}: v" for n in range(HAPROXY_HEADERS + 1)) + "}}",
        "match.headers",
        "at most 50 headers; write fewer",
    ),
    ("fallback: [v2]", "fallback", "remove it"),
    ("retry: {budget: 10%}", "retry.budget", "remove it"),
    ("retry: {replayable: true, on: {status: [507]}}", "retry.on.status", "401, 403"),
    ("timeouts: {idle: 5s}", "timeouts", "the same value"),
    ("timeouts: {total: 5s}", "timeouts.total", "write null"),
    ("unit: {cookie: c}", "unit", "write 'header: NAME'"),
    (
        "variants: {v1: {backend: a}, v2: {backend: ejecting}}",
        "variants.v2.backend",
        "without 'ejection.rate'",
    ),
    ("variants: {v1: {backend: a}, v2: {backend: numbers}}", "variants.v2.backend", "server_name: NAME"),
    ("mirror: {backend: a, share: 1%}", "mirror", "remove it"),
    ("variants: {v1: {backend: a}, v2: {backend: six}}", "variants.v2.backend", "write 'host: preserve'"),
    ("variants: {v1: {backend: a}, v2: {backend: zoned}}", "variants.v2.backend", "write one without '%'"),
    ("timeouts: {connect: 25d}", "timeouts.connect", "no more than 24d; write that or less"),
    ("variants: {v1: {backend: a}, v2: {backend: slow}}", "variants.v2.backend", "a smaller 'health.every'"),
    ("variants: {v1: {backend: a}, v2: {backend: wide}}", "variants.v2.backend", "than 2147483647; use a"),
]
MORE = """
  ejecting: {url: "http://127.0.0.1:9001", ejection: {rate: 10%}}
  numbers: {url: "https://127.0.0.1:9001"}
  six: {urls: ["http://[::1]:9001", "http://[::1]:9002"]}
  zoned: {url: "http://[fe80::1%eth0]:9001"}
  slow: {url: "http://127.0.0.1:9001", health: {every: 25d}}
  wide: {url: "http://127.0.0.1:9001", limit: {in_flight: 2147483648}}
"""


@pytest.mark.parametrize(("rest", "where", "remedy"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_haproxy_cannot_do_is_refused(rest: str, where: str, remedy: str, tmp_path: Path) -> None:
    rest += "" if "variants" in rest else ", variants: {v1: {backend: a}, v2: {backend: b}}"
    rest += "" if "match" in rest else ", match: {path: /}"
    text = text_of(f"{{policy: {{type: single, variant: v1}}, {rest}}}", tmp_path)
    with pytest.raises(ConfigError) as refused:
        load(text.replace("routes:", MORE.strip("\n") + "\nroutes:"), source="test", env={})
    (fault,) = refused.value.faults
    assert fault.path == f"routes.digits.{where}"
    assert remedy in fault.message
    assert fault.line
