"""Whatever the text: a document or faults, nothing else; and a document reads back as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.document import Document
from gateway.config.load import ConfigError, Fault, examine, load
from gateway.config.shape import every_section, yaml_keys
from gateway.config.yaml_text import read

EXAMPLE = (Path(__file__).parents[2] / "config.example.yaml").read_text()
LINES = EXAMPLE.splitlines()
WORDS = sorted({word.strip(",{}[]") for line in LINES for word in line.split("#")[0].split()} - {""})
ODD = [
    "", "~", "[]", "{}", "-1", "0", "1e999", ".nan", "no", "${X}", "&a [*a]", "*a", "!!binary x", '"', "\t",
    "👾",
]  # fmt: skip

KEYS = st.sampled_from(
    [*Document.model_fields, "digits", "v1", "type", "policy", "stages", "for", "weight", "url"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


def as_yaml(tree: object) -> str:
    """``tree`` in YAML, by the writer in C: that in Python takes most of the time of an example."""
    text: str = yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=True)
    return text


def answers(text: str) -> None:
    try:
        load(text, source="x", env={})
        faults: tuple[Fault, ...] = ()
    except ConfigError as error:
        faults = error.faults
    found = examine(text, env={})
    assert found.faults == faults
    assert (found.document is None) == bool(faults)
    last = len(text.splitlines()) + 1
    assert all(0 <= fault.line <= last and fault.message for fault in faults)


@given(st.text())
def test_any_text(text: str) -> None:
    answers(text)


@given(
    st.lists(
        st.sampled_from(
            [
                "a: ", "- ", "\n", "  ", "[", "]", "{", "}", "&x ", "*x", "<<: ", "'", '"', "|", ">", "? ",
                "!!str ", "---", "b", ",",
            ]
        )
    ).map("".join)
)  # fmt: skip
def test_any_yaml_like_text(text: str) -> None:
    answers(text)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_tree(tree: dict[str, object]) -> None:
    answers(as_yaml(tree))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_example_with_something_changed(data: st.DataObject) -> None:
    """Any word replaced by any other, any line dropped or doubled."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        words = lines[at].split(" ")
        place = data.draw(st.integers(0, len(words) - 1))
        change = data.draw(st.sampled_from(["replace", "drop", "double"]))
        if change == "replace":
            words[place] = data.draw(st.sampled_from(WORDS + ODD))
            lines[at] = " ".join(words)
        else:
            lines[at : at + 1] = [] if change == "drop" and len(lines) > 1 else [lines[at]] * 2
    answers("\n".join(lines))


# Every section and every kind of policy, with every option written.
WHOLE = """\
listen: 127.0.0.1:0
control: 127.0.0.1:8081
store: redis://cache:6379/1
tls: {cert: c.pem, key: k.pem, hsts: 365d, client_ca: ca.pem, client_auth: optional}
trusted_proxies: [10.0.0.0/8, "::1"]
config: {api: off}
feedback: {allow_origins: ["https://app.example.com"]}
browsers: {hosts: [models.example.com], origins: ["https://app.example.com"]}
auth:
  accept: [api-key, basic]
  dashboard: {steer: false}
  keys:
    - {id: app, hash: "sha256:HASH", scopes: [infer, feedback], routes: [digits], rate: 200/s}
  jwt: {issuer: i, audience: a, jwks: "https://x/jwks", refresh: 1m, algorithms: [EdDSA], scopes_claim: s,
        routes_claim: r, leeway: 0}
metrics:
  correct: {type: boolean, window: 24h, missing: zero, description: d}
  cost: {type: real, goal: minimize, minimum: 0, maximum: 9.5, cap: 5, adjust: past, usage: cost}
  tokens: {type: count, adjust: size}
backends:
  a:
    urls: ["https://10.0.0.1:9101/base/", "https://10.0.0.2:9101/base"]
    balance: round_robin
    host: preserve
    headers: {X-Key: abc}
    health: {path: /h, from_root: true, method: head,
             every: 2s, timeout: 500ms, healthy: 1, unhealthy: 1, status: [200, 204-206]}
    limit: {in_flight: 16, waiting: 64, wait: 250ms}
    pool: {idle: 1s, size: 3}
    ejection: {consecutive: 1, local_consecutive: 1, rate: null, min_requests: 1, window: 1s, base: 1s, max: 2s,
               max_share: 10%, panic: 0, silence: 100ms}
    slow_start: 10s
    alpn: false
    tls: {ca: ca, cert: c, key: k, verify: false, server_name: n}
  b: {url: "http://[::1]:9101", ejection: null}
engines:
  edge: {type: envoy, token: sixteen-characters, nodes: [e*], ids: stamped, max_lost_rows: 2%, forget: 10m}
  cluster: {type: kubernetes, token: seventeen-character, namespace: prod, server: "https://10.0.0.1:6443",
            server_token: t, ca: ca, force_conflicts: true, settle: 2s}
routes:
  edged:
    engine: edge
    match: {path: /edge}
    variants: {v1: {backend: b, payload: {prompt: p}, price: {input: 0.5, output: 1.5, cached_input: 0}}}
    policy: {type: single, variant: v1}
    mirror: {backend: b, share: 1%}
  weighted:
    engine: cluster
    httproute: prod/weighted
    variants: {v1: {payload: x}}
    policy: {type: single, variant: v1}
  digits:
    match: {path: /a, host: x.example.com, headers: {x-a: b}, methods: post, model: [gpt, other],
            protocol: v2, infer: /x}
    unit: {json: parameters.user}
    variants:
      v1: {backend: a, rewrite: {path: /b, version: 3, model: m, host: h}, headers: {x-b: c}}
      v2: {backend: b}
      v3: {backend: b}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 1%, for: 10m, min_samples: 5}, {weight: 100%, min_samples: 1, confirm: true}]
      guardrails: [{metric: error_rate, max_increase: 0.5%, min_samples: 3}, {metric: latency_p99, max_increase: 20ms},
                   {metric: cost, max_relative_increase: 5%}, {metric: correct, max_relative_decrease: 2%}]
      gate: {agreement: 98%, share: 10%, for: 1m, min_samples: 7}
      on_success: bandit
      bandit: {utility: {correct: 2}, algorithm: top_two, floor: 2%, discount: {half_life: 1h}}
      holdback: 10%
      bake: 0
      inconclusive: null
    shadows: {v3: 7%}
    fallback: [v1, {respond: {status: 202, json: {label: null, list: [1, 2.5, "x", true]}, headers: {x-c: d}}}]
    fallback_on: {connect: false, timeout: false, reset: false, status: 5xx}
    errors: {client: [{status: [500, 502], body: [bad, worse]}]}
    timeouts: {connect: 10ms, first_byte: 1s, idle: 2s, total: null}
    retry: {attempts: 3, on: {connect: true, timeout: true, reset: false, status: []}, replayable: true,
            backoff: {base: 1ms, max: 2ms}, budget: 1%, min: 0}
    hedge: {after: 50ms, max_share: 1%}
    body_limit: 1KiB
    buffer_limit: 0
    feedback: [correct]
    forward_credentials: true
    usage: true
    comparison: {type: json, paths: a.b, ignore: a.c, argmax: [c], tolerance: 0}
  bandit:
    match: {}
    unit: {principal: true}
    variants: {v1: {backend: b}, v2: {backend: b}}
    policy:
      type: bandit
      algorithm: linear
      metric: cost
      floor: 10%
      discount: {half_life: 1d}
      baseline: v1
      guardrails: [{metric: correct, max_decrease: 1%}, {metric: cost, max_ratio: 1.1}]
      features: {tier: {header: x-tier, values: [free, paid]}, age: {json: user.age, minimum: 0, maximum: 120}}
  settled:
    match: {path: /z}
    variants: {v1: {backend: b}, v2: {backend: b}}
    policy:
      type: bandit
      metric: cost
      prior: {mean: -1.5, weight: 2, shape: 3, scale: 4}
      stop: {probability_best: 99%, expected_loss: 0.1, min_samples: 3, then: single, alpha: 1%}
      debut: {share: 5%, samples: 30}
  useful:
    match: {path: /u}
    variants: {v1: {backend: b}, v2: {backend: b}}
    policy: {type: bandit, algorithm: top_two, utility: {correct: 1, cost: 0.2}}
    segments: {tier: {header: x-tier, values: [free, paid]}, land: {json: user.land, values: [de]}}
    fallback: [{respond: {text: sorry, status: 503}}]
  shadowed:
    match: {path: /s}
    variants: {v1: {backend: b}, v2: {backend: b}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
    covariates: {size: {header: content-length, maximum: 4096}}
  fixed:
    match: {path: /f}
    variants: {v1: {backend: b}}
    policy: {type: split, weights: {v1: 90%}}
limits: {connections: 1, head: 1KiB, fields: 2, target: 64, body: 0, control_body: 3MiB, pipeline: 1,
         header_timeout: 1s, body_timeout: 1s, body_min_rate: 0, body_grace: 0, idle_timeout: 1s, write_timeout: 1s,
         websockets: 5, websocket_life: 1h,
         shadow: {waiting: 1, bytes: 1, in_flight: 1, timeout: 1s, answer: 1, load: 1}}
shutdown: {grace: 0, idle: 0}
record: {enabled: false, request_ids: true, capacity: 1, flush: 1s, retention: null, max_size: 1GiB,
         spool: /var/spool/turnout, archive: /var/lib/turnout/archive}
loops: {allocation: 100ms, watch: 100ms}
telemetry:
  log: {level: debug, format: json}
  access_log: access.jsonl
  traces: {endpoint: "http://x", sample: 0.5, parent: link, propagate: false, service: edge,
           resource: {zone: a}, headers: {a: b}}
webhooks: [{url: "http://x", format: slack, events: [alarm], routes: [digits], secret: sixteen-character, timeout: 1s}]
""".replace("HASH", "ab" * 32)


@pytest.mark.parametrize("text", [EXAMPLE, WHOLE, "routes: {}\n"], ids=["example", "whole", "empty"])
@pytest.mark.parametrize("unset", [True, False], ids=["as written", "with every default"])
def test_a_document_reads_back_as_it_was(text: str, unset: bool) -> None:
    found = examine(text, env={})
    assert found.faults == ()
    assert found.document is not None
    dumped = found.document.model_dump(mode="json", exclude_unset=unset)
    if not unset:
        # A fixed answer has one body: the other's absence is not a null that was written.
        for name, route in dumped["routes"].items():
            if not found.document.routes[name].proxied:  # no path and no backend can be written
                del route["match"], route["variants"]["v1"]["backend"]
            for entry in route["fallback"]:
                if isinstance(entry, dict):
                    entry["respond"] = {k: v for k, v in entry["respond"].items() if v is not None}
    again = load(yaml.safe_dump(dumped, sort_keys=False), source="again", env={})
    assert again == found.document


def test_the_whole_file_says_every_option() -> None:
    """Else the round trip above would prove less than it seems to."""
    written: set[str] = set()

    def collect(value: object) -> None:
        if isinstance(value, dict):
            written.update(value)
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    tree, _ = read(WHOLE, {})
    assert tree is not None
    collect(tree.data)
    known = {key for _, model in every_section() for key in yaml_keys(model)}
    unsaid = {
        "alpha",
        "beta",
        "cookie",
        "grpc",
        "query",
        "url",
        "variant",
    }  # alternatives to what is said, in the same place
    assert known - written - unsaid == set()
