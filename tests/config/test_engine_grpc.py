"""What an engine cannot serve of HTTP/2 and gRPC is refused; what has no effect on gRPC is warned of."""

from __future__ import annotations

from gateway.config.load import examine

TEXT = """\
engines: {edge: {type: envoy, token: "0123456789abcdef0123456789abcdef"}}
backends:
  a: {url: "h2c://127.0.0.1:9101"}
routes:
  models:
    engine: edge
    match: {grpc: inference.GRPCInferenceService}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""


def test_grpc_and_backends_with_http2() -> None:
    said = {fault.path: fault.message for fault in examine(TEXT, env={}).faults}
    assert said == {
        "routes.models.match.grpc": "an engine does not serve gRPC; run the route without 'engine'",
        "routes.models.variants.v1.backend": (
            "an engine speaks HTTP/1.1 with backends; write the address with http:// or https://"
        ),
    }


def test_rules_on_bodies_of_grpc_errors() -> None:
    text = (
        TEXT.replace("    engine: edge\n", "")
        + "    errors: {client: [{status: 503}, {status: 500, body: shape}]}\n"
    )
    found = examine(text, env={})
    assert not found.faults
    said = {warning.path: warning.message for warning in found.warnings}
    assert "this rule never applies" in said["routes.models.errors.client[1].body"]
    assert "routes.models.errors.client[0].body" not in said
