"""What the weights of an HTTPRoute cannot do is refused, with what to write instead."""

from __future__ import annotations

import pytest

from gateway.config.load import ConfigError, examine, load

ENGINE = "{type: kubernetes, token: a-token-of-the-collector, namespace: prod}"
TEXT = f"""
record: {{request_ids: true}}
metrics: {{correct: {{type: boolean}}}}
engines: {{cluster: {ENGINE}}}
backends: {{a: {{url: "http://127.0.0.1:1"}}}}
routes:
  digits:
    engine: cluster
    variants: {{v1: {{}}, v2: {{}}}}
    policy: {{type: bandit, metric: correct}}
"""


def refused(old: str = "", new: str = "") -> dict[str, str]:
    """By key path: what is wrong once ``old`` is replaced."""
    assert old in TEXT
    found = examine(TEXT.replace(old, new) if old else TEXT, env={})
    return {fault.path: fault.message for fault in found.faults}


def test_a_split_by_weights_is_accepted_and_its_httproute_follows_from_its_name() -> None:
    assert refused() == {}
    document = load(TEXT, source="test", env={})
    assert document.httproute("digits") == ("prod", "digits")
    named = load(TEXT.replace("policy:", "httproute: ml/all\n    policy:"), source="test", env={})
    assert named.httproute("digits") == ("ml", "all")


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ("policy:", "unit: {header: x-user-id}\n    policy:", "unit", "weights assign each request on its own"),
        ("policy:", "shadows: {v2: 1%}\n    policy:", "shadows", "throws copies' responses away"),
        ("policy:", "fallback: [v1]\n    policy:", "fallback", "weights do no more than split requests"),
        (
            "policy:",
            "hedge: {after: 1s}\n    retry: {replayable: true}\n    policy:",
            "hedge",
            "weights do no more than split requests",
        ),
        ("policy:", "timeouts: {idle: 7s}\n    policy:", "timeouts", "let the cluster's gateway do it"),
        ("policy:", "usage: true\n    policy:", "usage", "weights do no more than split requests"),
        (
            "policy:", "match: {path: /digits}\n    policy:", "match",
            "the rules of the HTTPRoute say which requests",
        ),
        ("v2: {}", "v2: {backend: a}", "variants.v2.backend", "the variant's backendRef names its service"),
        ("v2: {}", "v2: {headers: {x-a: b}}", "variants.v2.headers", "its filters change requests"),
        (
            "metric: correct",
            "metric: correct, algorithm: linear, features: {x: {header: x-x, minimum: 0, maximum: 1}}",
            "policy.features",
            "does not decide by features; write 'algorithm: thompson'",
        ),
        (
            "engine: cluster",
            "engine: cluster\n    segments: {x: {header: x-x, values: [a]}}",
            "segments",
            "an engine does not read segments; remove them",
        ),
        (
            "engine: cluster",
            "engine: cluster\n    covariates: {x: {header: x-x, maximum: 1}}",
            "covariates",
            "an engine does not read covariates; remove them",
        ),
        ("request_ids: true", "request_ids: false", "policy", "write 'record: {request_ids: true}'"),
        ("engine: cluster", "httproute: a", "httproute", "remove this, or write 'match'"),
        ("policy:", "httproute: A_B\n    policy:", "httproute", "write NAME or NAMESPACE/NAME"),
    ],
)  # fmt: skip
def test_what_weights_cannot_do_is_refused_with_a_remedy(old: str, new: str, path: str, said: str) -> None:
    found = refused(old, new)
    where = f"routes.digits.{path}"
    assert where in found
    assert said in found[where]


def test_two_routes_of_one_engine_have_different_httproutes() -> None:
    other = TEXT[TEXT.index("  digits:") :].replace("  digits:", "  other:")
    text = TEXT + other
    load(text, source="test", env={})
    with pytest.raises(ConfigError, match="the route 'digits' has the same HTTPRoute; write another"):
        load(TEXT + other.replace("policy:", "httproute: prod/digits\n    policy:"), source="test", env={})


def test_an_engine_without_a_type_is_told_the_types_of_engines() -> None:
    with pytest.raises(ConfigError, match=r"write one of envoy, (haproxy, )?kubernetes"):
        load(TEXT.replace("type: kubernetes, ", ""), source="test", env={})


def test_other_engines_have_no_httproutes() -> None:
    text = TEXT.replace(ENGINE, "{type: envoy, token: a-token-of-the-collector}").replace(
        "{}", "{backend: a}"
    )
    with pytest.raises(ConfigError, match="only an engine of the type kubernetes has HTTPRoutes"):
        load(
            text.replace("policy:", "match: {path: /a}\n    httproute: digits\n    policy:"),
            source="test",
            env={},
        )
