"""The command that a route without requests shows: what it sends is matched by that route."""

from __future__ import annotations

import json
import shlex

import pytest

from gateway.config.load import load
from gateway.control.reports.example import example

CONFIG = """
listen: 127.0.0.1:8080
backends: {a: {url: "http://127.0.0.1:9"}}
routes:
  r:
    match: MATCH
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""


@pytest.mark.parametrize(
    ("match", "command"),
    [
        ("{path: /a/b}", ["curl", "ADDRESS/a/b", "--json", "{}"]),
        ("{path: /a, methods: [PUT]}", ["curl", "ADDRESS/a", "-X", "PUT"]),
        ("{path: /a, methods: [GET, POST]}", ["curl", "ADDRESS/a", "--json", "{}"]),
        (
            "{path: /v1, model: [gpt, llama], host: '*.example.com', headers: {x-team: it's}}",
            [
                "curl",
                "ADDRESS/v1",
                "-H",
                "host: www.example.com",
                "-H",
                "x-team: it's",
                "--json",
                '{"model": "gpt"}',
            ],
        ),
        ("{grpc: shop.Search/Find}", ["grpcurl", "-plaintext", "ADDRESS", "shop.Search/Find"]),
        (
            "{grpc: a.B/C, host: b.example.com, headers: {x-team: a}}",
            ["grpcurl", "-plaintext", "-H", "x-team: a", "-authority", "b.example.com", "ADDRESS", "a.B/C"],
        ),
        (
            "{grpc: a.Inference, model: resnet}",
            ["grpcurl", "-plaintext", "-d", '{"model_name": "resnet"}', "ADDRESS", "a.Inference/METHOD"],
        ),
    ],
)
def test_a_command_is_one_that_a_shell_reads(match: str, command: list[str]) -> None:
    text = CONFIG.replace("MATCH", match).replace("http:", "h2c:" if "grpc" in match else "http:")
    assert shlex.split(example(load(text, source="t", env={}), "r")) == command


def test_a_key_is_asked_for_and_clients_may_have_another_port() -> None:
    auth = (
        'control: 127.0.0.1:9090\nauth: {keys: [{id: a, hash: "sha256:' + "0" * 64 + '", scopes: [infer]}]}\n'
    )
    found = example(load(auth + CONFIG.replace("MATCH", "{path: /a}"), source="t", env={}), "r")
    assert found == """curl ADDRESS:8080/a -H "x-api-key: $KEY" --json '{}'"""


def test_a_call_of_grpc_goes_over_tls_where_the_gateway_speaks_it() -> None:
    text = CONFIG.replace("MATCH", "{grpc: a.B/C}").replace("http:", "h2c:")
    document = load(text + "tls: {cert: c.pem, key: k.pem}\n", source="t", env={})
    assert example(document, "r") == "grpcurl ADDRESS a.B/C"


def test_a_route_of_an_engine_is_reached_at_the_engine() -> None:
    """The gateway does not serve it, and responded 404 to what the page showed."""
    token = "token: edge-token-0123456789"
    text = (
        f"engines: {{edge: {{type: envoy, {token}}}}}"
        + CONFIG.replace("MATCH", "{path: /a}")
        + "    engine: edge\n"
    )
    assert example(load(text, source="t", env={}), "r") == "curl NODE/a --json '{}'"
    text = f"engines: {{edge: {{type: kubernetes, {token}}}}}" + CONFIG.replace("    match: MATCH\n", "")
    text = text.replace("{v1: {backend: a}}", "{v1: {}}") + "    engine: edge\n"
    assert example(load(text, source="t", env={}), "r") == ""


def test_a_route_that_proxies_nothing_is_asked_for_a_decision() -> None:
    text = "routes: {greeting: {variants: {warm: {}, cool: {}}, policy: {type: split, weights: {warm: 1, cool: 1}}}}"
    words = shlex.split(example(load(text, source="t", env={}), "greeting"))
    assert words[:3] == ["curl", "ADDRESS/-/decide", "--json"]
    assert json.loads(words[3]) == {"route": "greeting"}
