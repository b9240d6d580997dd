"""The real Envoy takes what is generated from every option; what an engine cannot do is refused with the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.compile.plans import salt
from gateway.config.load import ConfigError, load
from gateway.engines.envoy.bootstrap import Node, bootstrap
from gateway.engines.envoy.clusters import clusters
from gateway.engines.envoy.routes import route_table
from gateway.engines.haproxy.backends import cas
from gateway.engines.offers import Assigned
from policies.allocation.bucketing import allocation
from policies.allocation.cells import cells
from tests.e2e.test_tls import Issuer
from tests.engines.node import validate

BACKENDS = """
  a: {url: "http://127.0.0.1:9001"}
  b:
    urls: ["http://model.example:9002/base", "http://[::1]:9003/base"]
    balance: round_robin
    headers: {x-key: 100%}
    health: {path: /ready, status: [200, 204], every: 1s}
    ejection: {consecutive: 3, max_share: 100%, panic: 0}
    limit: {waiting: 0}
    pool: {idle: 1s}
    slow_start: 5s
  c: {url: "https://model.example", balance: random, ejection: null, tls: {ca: "@DIR@/ca.pem", server_name: m.example}}
  d: {url: "https://127.0.0.1:9443", tls: {verify: false}}
  e: {url: "https://127.0.0.1:9444", tls: {ca: "@DIR@/ca.pem"}}
  g: {url: "https://127.0.0.1:9445"}
  h: {url: "http://127.0.0.1:9446", health: {method: CONNECT}}
  f: {url: "http://127.0.0.1:9004", host: preserve}
  m:
    url: "http://127.0.0.1:9447"
    health: {every: 106751d, timeout: 106751d, healthy: 4294967295, unhealthy: 4294967295}
    ejection: {consecutive: 4294967295, local_consecutive: 4294967295, base: 106751d, max: 106751d}
    limit: {in_flight: 4294967295, waiting: 4294967295}
    pool: {idle: 106751d}
"""
CONFIG = """
engines: {edge: {type: envoy, token: a-token-of-the-edge-engine}}
metrics: {m: {type: boolean}}
backends: BACKENDS
routes:
  other: {match: {path: /other}, variants: {v: {backend: a}}, policy: {type: single, variant: v}}
  digits: ROUTE
"""
ROUTES = {
    "single": "{match: {path: /}, variants: {v: {backend: a}}, policy: {type: single, variant: v}}",
    "conditions": (
        "{match: {path: '/a\"b\\\\', host: ['*.example.com', 'a.b'], methods: [GET, POST], headers: {x-y: 'a b'}},"
        " variants: {v: {backend: a}}, policy: {type: single, variant: v}}"
    ),
    "long conditions": (
        f"{{match: {{path: /{'p' * 2000}, host: [{', '.join(f'h{n}.models.example' for n in range(100))}]}},"
        " variants: {v: {backend: a}}, policy: {type: single, variant: v}}"
    ),
    "rewrites": (
        "{match: {path: /v2/models/m}, unit: {header: x-user}, variants: {one: {backend: a, rewrite: {path: /x/}}, "
        "two: {backend: b, rewrite: {host: h.example}, headers: {x-a: '%REQ(x)%'}}}, "
        "policy: {type: split, weights: {one: 1, two: 2}}}"
    ),
    "fallback": (
        "{match: {path: /}, variants: {one: {backend: a}, two: {backend: c}, three: {backend: d}}, "
        "policy: {type: bandit, metric: m}, fallback: [one, two], fallback_on: {timeout: true, status: [500, 503]}}"
    ),
    "tls": "{match: {path: /}, variants: {v: {backend: e}}, policy: {type: single, variant: v}}",
    "host": "{match: {path: /}, variants: {v: {backend: f}}, policy: {type: single, variant: v}}",
    "retries": (
        "{match: {path: /}, variants: {v: {backend: a}}, policy: {type: single, variant: v}, "
        "retry: {attempts: 3, replayable: true}, timeouts: {total: null, first_byte: 500ms, idle: 2s}}"
    ),
    "largest": (
        "{match: {path: /}, variants: {v: {backend: m}}, policy: {type: single, variant: v}, "
        "retry: {attempts: 10, min: 4294967295, backoff: {base: 106751d, max: 106751d}}, "
        "timeouts: {connect: 106751d, first_byte: 106751d, idle: 106751d, total: 106751d}}"
    ),
    "smallest": (
        "{match: {path: /}, variants: {v: {backend: a}}, policy: {type: single, variant: v}, "
        "timeouts: {connect: 0.0001us, first_byte: 0.0001us, idle: 0.0001us, total: 0.0001us}}"
    ),
    "mirror": (
        "{match: {path: /}, variants: {v: {backend: a}}, policy: {type: single, variant: v}, "
        "mirror: {backend: b, share: 0.5%}}"
    ),
    "canary": (
        "{match: {path: /}, unit: {header: x-u}, variants: {v1: {backend: a}, v2: {backend: a}}, "
        "policy: {type: canary, "
        "baseline: v1, candidate: v2, stages: [{weight: 1%, for: 1m}], guardrails: [{metric: m, max_decrease: 2%}]}}"
    ),
}


def text_of(route: str, folder: Path) -> str:
    text = CONFIG.replace("BACKENDS", BACKENDS).replace("@DIR@", str(folder))
    return text.replace("ROUTE", f"{route[:-1]}, engine: edge}}")


def test_of_a_file_with_cas_nodes_get_the_certificates_alone(tmp_path: Path) -> None:
    """A file for HAProxy or nginx often holds a key too, and who may write the configuration may write a token."""
    Issuer(tmp_path)
    ca = (tmp_path / "ca.pem").read_text()
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    crl = "-----BEGIN X509 CRL-----\nY3Js\n-----END X509 CRL-----\n"
    cut = ca[: ca.index("-----END")]  # the end of the next one is not its end
    (tmp_path / "ca.pem").write_bytes(
        f"{ca}{key}# Zertifizierungsstelle für uns\n{cut}{key}{crl}{ca}".encode("latin-1")
    )
    document = load(text_of(ROUTES["tls"], tmp_path), source="tls", env={})
    offered = json.dumps(list(clusters(document, "edge")))
    assert json.dumps(ca + crl + ca)[1:-1] in offered
    assert "PRIVATE" not in offered
    [(_, text)] = cas(document, document.engine_routes("edge")).values()
    assert text == ca + crl + ca


@pytest.mark.parametrize("name", ROUTES)
def test_the_real_envoy_takes_it(name: str, tmp_path: Path) -> None:
    Issuer(tmp_path)
    document = load(text_of(ROUTES[name], tmp_path), source=name, env={})
    variants = document.routes["digits"].variants
    shares = allocation(dict.fromkeys(variants, 1 / len(variants)))
    stamps = dict.fromkeys(variants, "STAMP")
    keys = dict.fromkeys(variants, b"k" * 16)
    made = Assigned(cells(shares), stamps, salt(document, "digits"), keys)
    table = route_table(document, "edge", {"digits": made})
    node = Node(
        "edge",
        "e1",
        "t" * 16,
        "https://turnout.example",
        ("127.0.0.1", 0),
        ("127.0.0.1", 0),
        str(tmp_path / "ca.pem"),
    )
    config = bootstrap(node)
    config["static_resources"]["clusters"] += [
        without_type(cluster) for cluster in clusters(document, "edge")
    ]
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = without_type(table)
    assert validate(config, tmp_path) == ""


@pytest.mark.parametrize(
    ("host", "kind", "sni"),
    [("turnout.example", "DNS", "turnout.example"), ("10.0.0.7", "IP_ADDRESS", None), ("[::1]", "IP_ADDRESS", None)],
)  # fmt: skip
def test_nodes_verify_a_gateway_that_is_named_by_its_address(host: str, kind: str, sni: str | None) -> None:
    node = Node("edge", "e1", "t" * 16, f"https://{host}:8443", ("127.0.0.1", 0))
    (control,) = bootstrap(node)["static_resources"]["clusters"]
    tls = control["transport_socket"]["typed_config"]
    names = tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert names == [{"san_type": kind, "matcher": {"exact": host.strip("[]")}}]
    assert tls.get("sni") == sni


def without_type(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "@type"}


REFUSED = [
    ("model", "match: {path: /, model: m}", "match.model", "match a path or a header"),
    ("cookie", "match: {path: /}, unit: {cookie: c}", "unit", "write 'header: NAME'"),
    ("json", "match: {path: /}, unit: {json: c}", "unit", "write 'header: NAME'"),
    ("shadows", "match: {path: /}, shadows: {v2: 1%}", "shadows", "send it copies by 'mirror'"),
    ("mirror", "match: {path: /}, mirror: {backend: g, share: 1%}", "mirror.backend", "tls: {ca: FILE}"),
    ("hedge", "match: {path: /}, hedge: {after: 1s}, retry: {replayable: true}", "hedge", "remove it"),
    ("respond", "match: {path: /}, fallback: [{respond: {text: x}}]", "fallback[0]", "write the name of a variant"),
    ("body", "match: {path: /}, body_limit: 1MiB", "body_limit", "limit them at the node"),
    ("fallback", "match: {path: /}, fallback: [v2]", "variants.v1", "remove the fallback"),
    ("header", "match: {path: /, headers: {x-a: \xe9}}", "match.headers.x-a", "write values in ASCII"),
    ("time", "match: {path: /}, timeouts: {total: 106752d}", "timeouts.total", "than 106751d; write"),
    ("count", "match: {path: /}, retry: {min: 4294967296}", "retry.min", "than 4294967295; write"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rest", "where", "remedy"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_an_engine_cannot_do_is_refused(rest: str, where: str, remedy: str, tmp_path: Path) -> None:
    variants = "variants: {v1: {backend: a}, v2: {backend: a, headers: {x-a: b}}}, policy: {type: single, variant: v1}"
    with pytest.raises(ConfigError) as refused:
        load(text_of(f"{{{rest}, {variants}}}", tmp_path), source="test", env={})
    (fault,) = refused.value.faults
    assert fault.path == f"routes.digits.{where}"
    assert remedy in fault.message
    assert fault.line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("token: a-token-of-the-edge-engine", "token: short", "at least 16"),
        ("edge: {type: envoy", "other: {type: envoy", "there is no engine 'edge'"),
        ("edge: {", "more: {type: envoy, token: a-token-of-the-edge-engine}, edge: {", "has the same token"),
        ("engines: {", "limits: {control_body: 2047KiB}\nengines: {", "write at least 2MiB"),
        ("type: envoy", "type: nginx", "'nginx' is unknown; expected"),
        ("{backend: a}", "{backend: g}", "does not know the system's CAs"),
        ("{backend: a}", "{backend: h}", "does not probe with CONNECT"),
        ("{backend: a}", "{backend: a, rewrite: {version: 1}}", "write 'path'"),
        ("variants: {v", "mirror: {backend: z, share: 1%}, variants: {v", "there is no backend 'z'"),
        ("engine: edge}", "mirror: {backend: a, share: 1%}}", "copies requests to 'shadows'"),
        ("{backend: a}", "{backend: a, rewrite: {model: m}}", "serve the model under an alias"),
    ],
)
def test_faults_of_engines_and_their_routes(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = text_of(ROUTES["single"], tmp_path)
    head, _, tail = text.rpartition(old)
    with pytest.raises(ConfigError) as refused:
        load(head + new + tail, source="test", env={})
    assert said in " ".join(fault.message for fault in refused.value.faults)


@pytest.mark.parametrize("kind", ["envoy", "haproxy", "kubernetes"])
def test_a_fault_of_an_engine_is_none_of_its_routes(kind: str) -> None:
    match = "" if kind == "kubernetes" else "match: {path: /p}, "
    variant = "{}" if kind == "kubernetes" else "{backend: a}"
    text = (
        f'backends: {{a: {{url: "http://a:1"}}}}\nengines: {{edge: {{type: {kind}, token: short}}}}\n'
        f"routes: {{p: {{engine: edge, {match}variants: {{v: {variant}, w: {variant}}}, policy: {{type: canary, "
        "baseline: v, candidate: w, stages: [{weight: 10%, for: 1h}], "
        "guardrails: [{metric: error_rate, max_ratio: 2}]}}}"
    )
    with pytest.raises(ConfigError) as refused:
        load(text, source="test", env={})
    assert [fault.path for fault in refused.value.faults] == ["engines.edge.token"]
