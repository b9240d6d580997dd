"""Requests about a server or a model: forwarded like any other, but no decisions."""

from __future__ import annotations

import pytest

from gateway.compile.protocols import INFERRING, inferring
from tests.faults.rig import FaultRig
from tests.support.backend import RESET

CONFIG = """
backends:
  a: {url: "http://127.0.0.1:@A@", ejection: null}
  b: {url: "http://127.0.0.1:@B@", ejection: null}
routes:
  told:
    match: {path: /v2, protocol: v2, infer: [/predict]}
    unit: {header: x-user}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
    shadows: {v2: 100%}
    fallback: [v2]
  llm:
    match: {path: /v1, model: known}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
  rest:
    match: {path: /v1, protocol: openai}
    variants: {v1: {backend: b}}
    policy: {type: single, variant: v1}
"""
INFERENCES = {
    "v2": [b"/v2/models/m/infer", b"/v2/models/m/versions/1/infer", b"/x/v2/models/m/generate_stream",
           b"/inference.GRPCInferenceService/ModelInfer"],
    "tfserving": [b"/v1/models/m:predict", b"/v1/models/m/versions/3:classify", b"/v1/models/m/labels/l:regress"],
    "openai": [b"/v1/chat/completions", b"/v1/completions", b"/openai/deployments/d/embeddings", b"/v1/responses/",
               b"/v1/images/generations"],
    "anthropic": [b"/v1/messages"],
    "gemini": [b"/v1beta/models/m:streamGenerateContent"],
    "ollama": [b"/api/generate", b"/api/chat"],
    "torchserve": [b"/predictions/m", b"/predictions/m/1.0"],
    "sagemaker": [b"/invocations"],
}  # fmt: skip
OTHERS = {
    "v2": [b"/v2/models/m", b"/v2/models/m/ready", b"/v2/repository/models/m/load", b"/v2/models/stats/x",
           b"/v2/systemsharedmemory/region/r/register", b"/inference.GRPCInferenceService/ModelReady"],
    "tfserving": [b"/v1/models/m", b"/v1/models/m/metadata", b"/monitoring/prometheus/metrics"],
    "openai": [b"/v1/models", b"/v1/files", b"/v1/batches", b"/v1/responses/r1/cancel", b"/tokenize"],
    "anthropic": [b"/v1/messages/count_tokens", b"/v1/messages/batches"],
    "gemini": [b"/v1beta/models/m:countTokens"],
    "ollama": [b"/api/show", b"/api/pull"],
    "torchserve": [b"/ping", b"/models/m"],
    "sagemaker": [b"/ping"],
}  # fmt: skip


@pytest.mark.parametrize("protocol", INFERRING)
def test_the_paths_of_protocols(protocol: str) -> None:
    pattern = inferring([protocol], [])
    assert pattern is not None
    assert [path for path in INFERENCES[protocol] if not pattern.search(path)] == []
    assert [path for path in OTHERS[protocol] if pattern.search(path)] == []


def counted(rig: FaultRig) -> dict[tuple[str, str], int]:
    return dict(rig.worker.undecided)


@pytest.mark.parametrize(
    ("method", "path"),
    [(b"GET", "/v2/models/m"), (b"GET", "/v2/models/m/infer"), (b"POST", "/v2/models/m/ready")],
)
def test_a_request_about_the_server(rig: FaultRig, method: bytes, path: str) -> None:
    rig.worker.undecided.clear()
    offered = dict(rig.shadow.counts)
    answers = [rig.ask(path, method=method, body=b"") for _ in range(8)]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.all("x-variant")[0] for answer in answers}) == 1
    assert all(answer.all("x-request-id") and not answer.all("x-decision-id") for answer in answers)
    rig.until(lambda: counted(rig) == {("told", "2xx"): 8})
    assert rig.outcomes == []
    assert dict(rig.shadow.counts) == offered


def test_an_inference_is_a_decision(rig: FaultRig) -> None:
    rig.worker.undecided.clear()
    for path in ("/v2/models/m/infer", "/v2/mine/predict?x=1"):
        assert rig.ask(path).all("x-decision-id")
    rig.until(lambda: len(rig.outcomes) == 2)
    assert counted(rig) == {}


def test_the_unit_stays_on_its_variant(rig: FaultRig) -> None:
    for user in (b"a", b"b", b"c", b"d", b"e"):
        line = b"x-user: %b\r\n" % user
        meta = rig.ask("/v2/models/m", method=b"GET", body=b"", lines=line)
        assert meta.all("x-variant") == rig.ask("/v2/models/m/infer", lines=line).all("x-variant")


def test_fallback_serves_it(rig: FaultRig) -> None:
    rig.worker.undecided.clear()
    rig.always("a", RESET)
    answer = rig.ask("/v2/models/m", method=b"POST", body=b"")
    assert (answer.status, answer.all("x-variant")) == (200, [b"v2"])
    rig.until(lambda: counted(rig) == {("told", "2xx"): 1})
    rig.well("a")


def test_the_route_of_the_body_tells(rig: FaultRig) -> None:
    known, other = b'{"model": "known"}', b'{"model": "other"}'
    assert rig.ask("/v1/files", body=known).all("x-decision-id")
    assert not rig.ask("/v1/files", body=other).all("x-decision-id")
    assert rig.ask("/v1/completions", body=other).all("x-decision-id")
