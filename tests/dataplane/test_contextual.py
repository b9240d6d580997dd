"""Deciding by features: what is read of a request, and what it gets for it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gateway.dataplane.request.features import FeatureExtractor
from gateway.dataplane.tables import MAX_CACHED_SHARES, Choice, Table
from gateway.record.context import covariates_of, segments_of, unpack
from policies.contextual.bandit import Contextual, Ensemble, ensemble
from policies.contextual.features import GRID, Categorical, Numeric, SegmentFeature, encode
from policies.contextual.regression import LinearSums
from tests.support.stage import Stage

ROUTE = """
  seen:
    match: {path: /seen}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy:
      type: bandit
      algorithm: linear
      metric: right
      features:
        tier: {header: X-Tier, values: [free, paid]}
        age: {json: user.age, minimum: 0, maximum: 100}
    retry: {attempts: 1}
    fallback: [v2]
    buffer_limit: 200
    timeouts: {connect: 1s, first_byte: 2s, idle: 3s, total: 4s}
  heads:
    match: {path: /heads}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy:
      type: bandit
      algorithm: linear
      metric: right
      features: {tier: {header: x-tier, values: [free, paid]}}
    retry: {attempts: 1}
  parts:
    match: {path: /parts}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: split, weights: {v1: 1, v2: 3}}
    segments:
      tier: {header: X-Tier, values: [free, paid]}
      land: {json: user.land, values: [de, "7"]}
    retry: {attempts: 1}
  sized:
    match: {path: /sized}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: split, weights: {v1: 1, v2: 3}}
    covariates:
      size: {header: Content-Length, maximum: 100}
      cart: {json: cart.total, minimum: -50, maximum: 50}
      visits: {header: X-Visits, maximum: 10}
    retry: {attempts: 1}
metrics: {right: {type: boolean}}
"""
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch, more=ROUTE)


def post(body: str, *fields: str, path: str = "/seen", length: int | None = None) -> str:
    head = [f"POST {path} HTTP/1.1", "host: h", f"content-length: {length or len(body.encode())}", *fields]
    return "\r\n".join([*head, "", body])


def taught(stage: Stage, route: str = "seen") -> Ensemble:
    """An ensemble for which free users are v1's and paid ones v2's, put where requests read it."""
    plan = stage.worker.snapshot.routes[route]
    extractor = plan.table.extractor
    assert extractor is not None
    contextual = Contextual(("v1", "v2"), "right", extractor.features, floor=0.1)
    rng = np.random.default_rng(1)
    rows = [
        encode(contextual.features, {"tier": ("free", "paid")[k % 2], "age": k % 100}) for k in range(300)
    ]
    sums = {
        "v1": LinearSums.of(rows, [float(row[1]) for row in rows]),
        "v2": LinearSums.of(rows, [float(row[2]) for row in rows]),
    }
    made = ensemble(contextual, sums, rng)
    old = plan.table
    plan.table = Table(route, 2, old.allocation, plan.variants, old.id_prefix, extractor, made)
    return made


def sent(stage: Stage, request: str) -> None:
    """A whole exchange."""
    client = stage.client()
    client.give(request.encode())
    stage.connected().give(OK)
    client.leave()
    stage.turn()


def test_features_of_header_and_body_decide(stage: Stage) -> None:
    made = taught(stage)
    body = json.dumps({"user": {"age": 40}})
    for tier, variant in (("free", "v1"), ("paid", "v2")):
        sent(stage, post(body, f"x-tier: {tier}"))
        outcome = stage.outcomes[-1]
        row = encode(made.plan.features, {"tier": tier, "age": 40})
        shares = dict(zip(("v1", "v2"), made.shares(row), strict=True))
        assert outcome.assigned == variant
        assert outcome.propensity == shares[variant] > 0.8
        assert outcome.features == f'{{"age":40,"tier":"{tier}"}}'
        assert outcome.epoch == 2
    stage.clean()


@pytest.mark.parametrize(
    ("request_", "features"),
    [
        (post("{}"), {"age": None, "tier": None}),
        (post("not json", "x-tier: gold"), {"age": None, "tier": "gold"}),
        (post('{"user": 3}', "x-tier: "), {"age": None, "tier": ""}),
        (post('{"user": {"age": "31.5"}}', "X-TIER: free"), {"age": 31.5, "tier": "free"}),
        (post('{"user": {"age": {"a": 1}}}', "x-tier: " + "f" * 65), {"age": None, "tier": None}),
        (post('{"user": {"age": 1e400}}'), {"age": None, "tier": None}),
        (post('{"user": {"age": true}}', "x-tier: fr\u00e9e"), {"age": 1, "tier": "fr\u00e9e"}),
        ("GET /seen HTTP/1.1\r\nhost: h\r\n\r\n", {"age": None, "tier": None}),
    ],
)
def test_what_cannot_be_read_is_missing(stage: Stage, request_: str, features: dict[str, object]) -> None:
    taught(stage)
    sent(stage, request_)
    assert stage.outcomes[-1].status == 200
    assert json.loads(stage.outcomes[-1].features) == features


def test_before_anything_was_learned_shares_are_even_and_features_recorded(stage: Stage) -> None:
    sent(stage, post('{"user": {"age": 7}}', "x-tier: paid"))
    outcome = stage.outcomes[-1]
    assert (outcome.propensity, outcome.features) == (0.5, '{"age":7,"tier":"paid"}')


def test_the_decision_waits_for_a_short_body(stage: Stage) -> None:
    taught(stage)
    body = json.dumps({"user": {"age": 40}})
    client = stage.client()
    client.give((post(body[:5], "x-tier: free", length=len(body))).encode())
    assert stage.take() == []
    client.give((body[5:]).encode())
    assert stage.take() == ["a dialled"]
    stage.connected().give(OK)
    assert stage.outcomes[-1].features == '{"age":40,"tier":"free"}'


def test_of_a_long_body_the_features_are_missing_and_it_streams_on(stage: Stage) -> None:
    taught(stage)
    body = json.dumps({"user": {"age": 40}, "text": "x" * 500})
    client = stage.client()
    client.give((post(body[:100], "x-tier: free", length=len(body))).encode())
    assert stage.take() == []
    client.give((body[100:300]).encode())
    assert stage.take() == ["a dialled"], "beyond buffer_limit it waits no longer"
    backend = stage.connected()
    client.give((body[300:]).encode())
    sent_on = "".join(stage.take())
    assert sent_on.count("x") >= 500
    backend.give(OK)
    assert stage.outcomes[-1].features == '{"age":null,"tier":"free"}'
    client.leave()
    stage.clean()


def test_routes_whose_features_are_headers_do_not_wait(stage: Stage) -> None:
    taught(stage, "heads")
    client = stage.client()
    client.give((post("ab", "x-tier: paid", path="/heads", length=10)).encode())
    assert stage.take() == ["b dialled"]


def test_a_forced_variant_keeps_the_features_in_the_record(stage: Stage) -> None:
    taught(stage)
    body = json.dumps({"user": {"age": 40}})
    client = stage.client()
    client.protocol.forwarding.near = True  # only this machine may force, without `auth`
    client.give((post(body, "x-tier: free", "x-variant: v2")).replace("host: h", "host: localhost").encode())
    stage.connected().give(OK)
    outcome = stage.outcomes[-1]
    assert (outcome.assigned, outcome.forced, outcome.propensity) == ("v2", True, 1.0)
    assert outcome.features == '{"age":40,"tier":"free"}'


def test_a_rescued_request_is_the_assigned_variants_with_its_share(stage: Stage) -> None:
    made = taught(stage)
    client = stage.client()
    client.give((post(json.dumps({"user": {"age": 40}}), "x-tier: free")).encode())
    stage.refused()
    stage.connected().give(OK)
    outcome = stage.outcomes[-1]
    assert (outcome.assigned, outcome.served, outcome.fallback) == ("v1", "v2", True)
    assert outcome.propensity == made.shares(encode(made.plan.features, {"tier": "free", "age": 40}))[0]


def table(stage: Stage) -> Table:
    taught(stage)
    return stage.worker.snapshot.routes["seen"].table


def test_each_point_gets_the_variant_whose_range_it_is_in(stage: Stage) -> None:
    shares = table(stage).shares(("free", 40.0))
    first = shares.allocation.probabilities[0]

    def choice(u: float) -> Choice:
        return shares.choices[shares.allocation.pick(u)]

    assert choice(0.0).variant.name == choice(np.nextafter(first, 0)).variant.name == "v1"
    assert choice(first).variant.name == choice(1 - 2**-53).variant.name == "v2"
    assert choice(0.0) is choice(first / 2)
    assert choice(0.0).propensity == first


def test_the_decision_id_carries_the_row(stage: Stage) -> None:
    made = table(stage)
    choice = made.shares(("paid", None)).choices[0]
    context = unpack(choice.context)
    assert made.extractor is not None
    assert context.fingerprint == made.extractor.fingerprint.hex()
    assert context.width == 5
    assert context.entries == ((0, 1.0), (2, 1.0), (4, 1.0))


def test_no_more_shares_are_remembered_than_fit(stage: Stage) -> None:
    made = table(stage)
    for age in range(MAX_CACHED_SHARES + 10):
        made.shares(("free", float(age)))
    assert len(made._cached) == 10
    assert made.shares(("free", 1.0)) is made.shares(("free", 1.0))


def test_other_routes_have_the_table_they_had(stage: Stage) -> None:
    routes = stage.worker.snapshot.routes
    assert routes["plain"].table.extractor is None
    assert not routes["heads"].needs_body
    assert routes["body"].needs_body
    assert routes["body"].body_limit == routes["body"].buffer_limit, "no more is read than is kept"


def test_an_extractor_names_the_values() -> None:
    extractor = FeatureExtractor([(Categorical("a", ("x", "y")), b"x-a", ()), (Numeric("b"), b"x-b", ())])
    assert extractor.named(("x", None)) == {"a": "x", "b": None}
    assert not extractor.in_body


@pytest.mark.parametrize(
    ("request_", "tier", "land"),
    [
        (post('{"user": {"land": "de"}}', "x-tier: free", path="/parts"), "free", "de"),
        (post('{"user": {"land": 7}}', "x-tier: gold", path="/parts"), None, "7"),
        (post("not json", "x-tier: " + "f" * 65, path="/parts"), None, None),
        ("GET /parts HTTP/1.1\r\nhost: h\r\nx-tier: paid\r\n\r\n", "paid", None),
    ],
)
def test_a_decision_carries_its_segments_and_its_share_stays(
    stage: Stage, request_: str, tier: str | None, land: str | None
) -> None:
    """Only declared values are kept: what clients write can make no further segment."""
    extractor = stage.worker.snapshot.routes["parts"].table.extractor
    assert extractor is not None
    sent(stage, request_)
    outcome = stage.outcomes[-1]
    assert outcome.propensity == {"v1": 0.25, "v2": 0.75}[outcome.assigned]
    assert json.loads(outcome.features) == {"tier": tier, "land": land}
    context = stage.worker.snapshot.routes["parts"].table.shares((tier, land)).choices[0].context
    features = [f for f in extractor.features if isinstance(f, SegmentFeature)]
    wanted = [f.segments[value].hex() for f, value in zip(features, (tier, land), strict=True)]
    assert segments_of(context.hex()) == wanted
    assert extractor.packed(json.loads(outcome.features)) == context, "as for a reward by request id"
    assert segments_of(extractor.packed({"tier": tier}).hex()) == wanted[:1], "land was declared later"
    assert segments_of(extractor.packed({}).hex()) == []


@pytest.mark.parametrize(
    ("request_", "size", "cart", "visits"),
    [
        (post('{"cart": {"total": 25}}', "x-visits: 5", path="/sized"), 23, 25, 5),
        (post('{"cart": {"total": -1e9}}', "x-visits: many", path="/sized"), 25, -1e9, None),
        (post("not json" + " " * 150, "x-visits: 1e999", path="/sized"), 158, None, None),
        ("GET /sized HTTP/1.1\r\nhost: h\r\nx-visits: 7.5\r\n\r\n", None, None, 7.5),
        (
            "POST /sized HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            None,
            None,
            None,
        ),
    ],
)
def test_a_decision_carries_its_covariates_and_its_share_stays(
    stage: Stage, request_: str, size: float | None, cart: float | None, visits: float | None
) -> None:
    """In steps of their declared ranges: no client can write one that outweighs all others."""
    extractor = stage.worker.snapshot.routes["sized"].table.extractor
    assert extractor is not None
    sent(stage, request_)
    outcome = stage.outcomes[-1]
    assert outcome.propensity == {"v1": 0.25, "v2": 0.75}[outcome.assigned]
    raw = {"size": size, "cart": cart, "visits": visits}
    assert json.loads(outcome.features) == raw
    context = stage.worker.snapshot.routes["sized"].table.shares((size, cart, visits)).choices[0].context
    places = {
        "size": None if size is None else min(size, 100) / 50 - 1,
        "cart": None if cart is None else max(cart, -50) / 50,
        "visits": None if visits is None else visits / 5 - 1,
    }
    wanted = [
        (f.id.hex(), round(place * GRID))
        for f in extractor.covariates
        if (place := places[f.name]) is not None
    ]
    assert covariates_of(context.hex()) == wanted
    assert extractor.packed(json.loads(outcome.features)) == context, "as for a reward by request id"
    assert covariates_of(extractor.packed({}).hex()) == []
    stage.clean()
