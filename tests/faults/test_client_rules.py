"""Whatever a client writes where a rule looks: one response, one row in the record, and no backend is blamed."""

from __future__ import annotations

import json
from itertools import product

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.internal_errors import INTERNAL_ERRORS
from tests.faults.rig import FaultRig
from tests.support.backend import ok
from tests.support.client import Answer

NAMES = ("a", "b", "s")
RULES = {
    "json": "unit: {json: user.id}", "query": "unit: {query: user}", "cookie": "unit: {cookie: user}",
    "header": "unit: {header: x-user}", "rewritten": "", "features": "", "model": "",
}  # fmt: skip
EXTRAS = {
    "plain": "",
    "fallback": "fallback: [v2]",
    "shadow": "shadows: {shade: 100%}",
    "hedge": "hedge: {after: 1ms, max_share: 100%}\n    retry: {replayable: true}",
}
FEATURES = (
    "{size: {json: n.x, minimum: 0, maximum: 9}, kind: {json: k, values: [a, b]}, "
    "head: {header: x-kind, values: [a, b]}}"
)


def route(rule: str, extra: str) -> str:
    name = f"{rule}-{extra}"
    model = "rewrite: {model: new-é}" if rule == "rewritten" else ""
    match = f"{{path: /{name}" + (", model: [m1, m2]}" if rule == "model" else "}")
    policy = "{type: split, weights: {v1: 1, v2: 1}}"
    if rule == "features":
        policy = f"{{type: bandit, metric: good, algorithm: linear, features: {FEATURES}}}"
    shade = "shade: {backend: s, rewrite: {model: shade}}" if extra == "shadow" else ""
    first = "dead" if extra == "fallback" else "a"
    return f"""
  {name}:
    match: {match}
    variants:
      v1: {{backend: {first}, {model}}}
      v2: {{backend: b, {model}}}
      {shade}
    policy: {policy}
    {RULES[rule]}
    {EXTRAS[extra]}
"""


CONFIG = """
metrics:
  good: {type: boolean}
backends:
  a: {urls: ["http://127.0.0.1:@A@", "http://127.0.0.1:@B@"]}
  b: {url: "http://127.0.0.1:@B@"}
  s: {url: "http://127.0.0.1:@S@"}
  dead: {url: "http://127.0.0.1:@DEAD@", ejection: null}
routes:
  other:
    match: {path: /model-plain, model: [m3]}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
""" + "".join(route(rule, extra) for rule, extra in product(RULES, EXTRAS))

# What clients write ------------------------------------------------------------------------------------
texts = st.text(st.characters(categories=None), max_size=8)  # half surrogate pairs too
scalars = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**400), st.just("m1"), st.just("")
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["model", "user", "n", "k", "x", "id", "a"])
objects = st.dictionaries(names, values | st.dictionaries(names, values, max_size=3), max_size=6)
documents = st.builds(
    lambda value, plain: json.dumps(value, ensure_ascii=plain).encode("utf-8", "surrogatepass"),
    objects | values,
    st.booleans(),
)
ODD_BODIES = [
    b"",
    b'{"user": {"id": "\\ud800"}}',
    b'{"model": "\\ud83d"}',
    b'{"model": []}',
    b'{"model": {"a": 1}}',
    b'{"model": "m1", "model": "m2"}',
    b'{"model": "m1"',
    b'{"mod\\u0065l": "m1"}',
    b'{"model": 1e999, "n": {"x": 1e999}}',
    b'{"n": {"x": ' + b"9" * 5000 + b"}}",
    b"[" * 3000,
    b'{"user": ' * 2000,
    b'{"model": "m1", "x": "' + b"\xed\xa0\x80" * 9000 + b'"}',
    b'{"model": "m1", "x": [' + b"[[]," * 6000,
    b"{" + b",".join([b'"":1'] * 2000) + b"}",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
]
bodies = st.one_of(
    documents, documents.map(lambda b: b + b" " * 20_000), st.binary(max_size=40), st.sampled_from(ODD_BODIES)
)
visible = st.binary(max_size=12).map(lambda b: b.translate(None, b"\x00\r\n"))
queries = st.one_of(
    st.sampled_from(
        [b"user=%ff", b"user=u" + b"&a" * 1500, b"user=%", b"user=", b"us%65r=+", b"user", b"=&=;"]
    ),
    visible.map(lambda b: b"user=" + b.translate(None, b" #")),
)
fields = st.tuples(
    st.sampled_from([b"cookie: user=", b"cookie: ", b"x-user: ", b"x-kind: ", b"x-variant: "]), visible
).map(lambda pair: b"%b%b\r\n" % pair)


@pytest.fixture
def gateway(shared_rig: FaultRig) -> FaultRig:
    shared_rig.always(
        "a", 0.003, ok(b"{}", b"content-type: application/json")
    )  # so that there is time to hedge
    return shared_rig


@given(
    rule=st.sampled_from(sorted(RULES)),
    extra=st.sampled_from(sorted(EXTRAS)),
    query=queries,
    lines=st.lists(fields, max_size=3).map(b"".join),
    body=bodies,
    chunked=st.booleans(),
)
@example("rewritten", "plain", b"", b"", b'{"model": "\\ud83d"}', False)  # S4
@example("json", "shadow", b"", b"", b'{"user": {"id": "u"}, "model": "\\ud83d"}', False)  # S6
@example("rewritten", "hedge", b"", b"", b'{"model": "\\ud83d"}', False)
@example("model", "plain", b"", b"", b'{"model": []}', False)  # S10
@example("json", "plain", b"", b"", b'{"user": {"id": "\\ud800"}}', True)
@example("query", "fallback", b"user=u" + b"&a" * 1500, b"", b"", False)
@example("query", "plain", b"user=%ff", b"", b"", False)
@settings(max_examples=400, suppress_health_check=list(HealthCheck))
def test_one_response_and_nobody_is_blamed(
    gateway: FaultRig, rule: str, extra: str, query: bytes, lines: bytes, body: bytes, chunked: bool
) -> None:
    rig = gateway
    rig.outcomes.clear()
    before, faults = sum(rig.worker.refusals.values()), INTERNAL_ERRORS.counts.total()
    framing = b"transfer-encoding: chunked\r\n" if chunked else b"content-length: %d\r\n" % len(body)
    sent = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:]) if p) + b"0\r\n\r\n"
    head = b"POST /%b-%b?%b HTTP/1.1\r\nhost: h\r\n%b%b\r\n" % (
        rule.encode(), extra.encode(), query, lines, framing,
    )  # fmt: skip
    with rig.client() as client:
        client.send(head + (sent if chunked else body))
        answers = [client.answer()]
        if b"close" not in answers[0].all("connection"):
            client.send(b"GET /header-plain HTTP/1.1\r\nhost: h\r\n\r\n")
            answers.append(client.answer())
            assert answers[1].status == 200
    assert answers[0].status < 500, answers[0].body
    unchanged(rig, answers, before)
    assert INTERNAL_ERRORS.counts.total() == faults


def unchanged(rig: FaultRig, answers: list[Answer], refusals: int) -> None:
    """Each response is recorded or counted as refused; no failure stands in the record or in any health."""
    decided = [answer for answer in answers if answer.all("x-decision-id")]
    rig.until(lambda: len(rig.outcomes) == len(decided))
    assert sum(rig.worker.refusals.values()) - refusals == len(answers) - len(decided)
    rig.until(lambda: not rig.worker.active)
    shadow = rig.shadow
    rig.until(lambda: not (shadow.waiting or shadow.running or shadow.held))
    for outcome in rig.outcomes:
        assert outcome.error == "" or outcome.route.endswith("fallback"), outcome
        assert outcome.status < 500
    for health in rig.gateway.registry.healths.values():
        for record in health._records.values():
            assert health.backend == "dead" or record.runs == [0, 0, 0]
    assert not [row for row in rig.shadowed if row.error], rig.shadowed
    assert not rig.errors, rig.errors


@pytest.mark.parametrize(
    ("rule", "query", "lines", "body"),
    [
        ("header", b"", b"x-user:\r\n", b"{}"),
        ("cookie", b"", b"cookie: user=\r\n", b"{}"),
        ("query", b"?user=", b"", b"{}"),
        ("json", b"", b"", b'{"user": {"id": ""}}'),
        ("json", b"", b"", b'{"user": {"id": null}}'),
    ],
)
def test_an_empty_unit_is_none(gateway: FaultRig, rule: str, query: bytes, lines: bytes, body: bytes) -> None:
    """All who sent an empty one were one user, and got one variant."""
    gateway.outcomes.clear()
    with gateway.client() as client:
        client.send(
            b"POST /%b-plain%b HTTP/1.1\r\nhost: h\r\n%bcontent-length: %d\r\n\r\n%b"
            % (rule.encode(), query, lines, len(body), body)
        )
        assert client.answer().status == 200
    assert not gateway.outcome().sticky
