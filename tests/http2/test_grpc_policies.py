"""Policies on gRPC calls: routes by model, comparison of shadows, what counts as a failure, health."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from backends.rpc.messages import MESSAGES
from gateway.http.grpc import error_fields, judged_status
from tests.faults.rig import FaultRig
from tests.http2.client import Client
from tests.http2.inference import (
    NOT_SERVING,
    OWN_CONNECTION,
    SERVICE,
    SERVING,
    InferenceServer,
    infer,
    infer_request,
)
from tests.http2.raw import data, headers

ONE, TWO, OTHER = InferenceServer(), InferenceServer(binary=False), InferenceServer(offset=0.5)
SERVERS = (ONE, TWO, OTHER)


def config() -> str:
    return f"""
backends:
  one: {{url: "h2c://127.0.0.1:{ONE.port}", ejection: null}}
  two: {{url: "h2c://127.0.0.1:{TWO.port}", ejection: null}}
  other: {{url: "h2c://127.0.0.1:{OTHER.port}", ejection: null}}
  strict:
    urls: ["h2c://127.0.0.1:{ONE.port}", "h2c://127.0.0.1:{TWO.port}"]
    balance: round_robin
    ejection: {{consecutive: 3, base: 1m}}
  hurried:
    urls: ["h2c://127.0.0.1:{ONE.port}", "h2c://127.0.0.1:{TWO.port}"]
    ejection: {{consecutive: 3, base: 1m}}
  probed:
    urls: ["h2c://127.0.0.1:{ONE.port}", "h2c://127.0.0.1:{OTHER.port}"]
    balance: round_robin
    health: {{grpc: models, every: 100ms, timeout: 5s, healthy: 1, unhealthy: 1}}
routes:
  alpha:
    match: {{grpc: {SERVICE}, model: alpha}}
    variants: {{v1: {{backend: one}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
  beta:
    match: {{grpc: {SERVICE}, model: beta}}
    variants: {{v1: {{backend: two}}}}
    policy: {{type: single, variant: v1}}
  named:
    match: {{grpc: {SERVICE}, model: named}}
    variants: {{v1: {{backend: one}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
    fallback_on: {{status: 404}}
    errors: {{client: [{{status: 504}}]}}
  shadowed:
    match: {{grpc: {SERVICE}, model: shadowed}}
    variants: {{v1: {{backend: one}}, v2: {{backend: two}}, v3: {{backend: other}}}}
    policy: {{type: shadow, primary: v1, shadows: {{v2: 100%, v3: 100%}}}}
    retry: {{attempts: 1}}
  strict:
    match: {{grpc: {SERVICE}, model: strict}}
    variants: {{v1: {{backend: strict}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
  hurried:
    match: {{grpc: {SERVICE}, model: hurried}}
    variants: {{v1: {{backend: hurried}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
  probed:
    match: {{grpc: {SERVICE}, model: probed}}
    variants: {{v1: {{backend: probed}}}}
    policy: {{type: single, variant: v1}}
"""


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    folder: Path = tmp_path_factory.mktemp("rig")
    for server in SERVERS:
        server.start()
    found = FaultRig(folder, config())
    found.start()
    yield found
    for server in SERVERS:  # before the rig, whose loop waits for their connections
        server.server.stop(None).wait()
    found.stop()


@pytest.fixture
def rig(shared_rig: FaultRig) -> Iterator[FaultRig]:
    for server in SERVERS:
        server.failure = server.late_failure = None
        server.delay = 0.0
        server.serving = SERVING
        server.models.clear()
        server.probed.clear()
    shared_rig.fresh()
    yield shared_rig
    shared_rig.clean()


@pytest.fixture
def channel(rig: FaultRig) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options=[OWN_CONNECTION]) as found:
        yield found
    rig.until(lambda: not rig.worker.active and not rig.shadow.comparing)


def failure(channel: grpc.Channel, model: str) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, model)
    return caught.value


def stream(channel: grpc.Channel, requests: Iterator[Any]) -> Any:
    method = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES["ModelStreamInferResponse"].FromString,
    )
    return method(requests, timeout=60)


# Routes ---------------------------------------------------------------------------------------------
def test_a_route_by_the_model_of_the_message(rig: FaultRig, channel: grpc.Channel) -> None:
    assert infer(channel, "alpha", 3.0)[0] == [6.0]
    assert (ONE.models, TWO.models) == (["alpha"], [])
    infer(channel, "beta")
    assert TWO.models == ["beta"]
    error = failure(channel, "gamma")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "unknown_route: No route serves the model 'gamma'."


def message(body: bytes, size: int | None = None, *, compressed: int = 0) -> bytes:
    return bytes((compressed,)) + (len(body) if size is None else size).to_bytes(4, "big") + body


NAME = b"\x0a\x05alpha"
UNREADABLE = "unknown_route: The routes here go by the model; send a message whose field 1 names one."


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (message(NAME, 2**32 - 1), UNREADABLE),
        (message(NAME, 1), UNREADABLE),
        (message(b""), UNREADABLE),
        (b"\0\0\0", UNREADABLE),
        (message(NAME, compressed=1), UNREADABLE),
        (message(NAME, compressed=7), UNREADABLE),
        (message(b"\x08\x01"), UNREADABLE),
        (message(b"\x0a\xff\xff\xff\xff\x0f"), UNREADABLE),
        (message(b"\x10" + b"\x80" * 20 + b"\x01" + NAME), UNREADABLE),
        (message(b"\x10\x01" * 10_000 + NAME), UNREADABLE),
        (message(gzip.compress(NAME + b"\x12\x80\xd9\x80\x04" + bytes(8_400_000)), compressed=1), UNREADABLE),
        (message(NAME + NAME), "bad_json: The body names 'model' more than once; send it once."),
    ],
    ids=["endless", "short", "empty", "no prefix", "not compressed", "flag", "number", "beyond", "varint", "many",
         "bomb", "two"],
)  # fmt: skip
def test_a_message_that_lies_reaches_no_backend(rig: FaultRig, sent: bytes, said: str) -> None:
    fields = [
        *((b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"gateway.test")),
        *((b":path", f"/{SERVICE}/ModelInfer".encode()), (b"content-type", b"application/grpc")),
    ]
    pieces = [sent[start : start + 16_384] for start in range(0, len(sent), 16_384)]
    with Client(rig.port) as client:
        body = b"".join(data(piece, end=False) for piece in pieces)
        reply = client.request(headers(fields, end=False) + body + data(b""))
    told = dict(pair for head in reply.heads for pair in head)
    assert told[b"grpc-message"].decode() == said
    assert (ONE.models, TWO.models) == ([], [])


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"error":' * 6000, b"1" * 9000, b'{"error": "\\ud800"}'])
def test_an_error_that_is_no_json_has_a_message_of_ours(body: bytes) -> None:
    assert dict(error_fields(502, body))[b"grpc-message"] == b"the response is not gRPC (HTTP status 502)"


def test_a_compressed_message_is_inflated_outside_the_loop(rig: FaultRig, channel: grpc.Channel) -> None:
    sent = infer_request("alpha", *(1.0 / number for number in range(1, 2000))).SerializeToString()
    method = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    reader = rig.worker.body_reader
    most, reader._max_pending = reader._max_pending, 0
    method(sent, timeout=60)
    with pytest.raises(grpc.RpcError, match="gateway_overloaded"):
        method(sent, timeout=60, compression=grpc.Compression.Gzip)
    reader._max_pending = most
    method(sent, timeout=60, compression=grpc.Compression.Gzip)
    assert ONE.models == ["alpha", "alpha"]


def test_a_stream_is_routed_by_its_first_message(rig: FaultRig, channel: grpc.Channel) -> None:
    answered = iter(range(5))
    responses = stream(channel, (infer_request("beta", float(n)) for n in answered))
    assert len(list(responses)) == 5
    assert TWO.models == ["beta"] * 5


def test_an_answer_comes_before_the_next_message_of_a_stream_is_sent(
    rig: FaultRig, channel: grpc.Channel
) -> None:
    received: list[Any] = []

    def came(count: int) -> bool:
        return len(received) == count

    def requests() -> Iterator[Any]:
        for n in range(3):
            yield infer_request("alpha", float(n))
            rig.until(partial(came, n + 1))

    for response in stream(channel, requests()):
        received.append(response)  # noqa: PERF402 - one at a time
    assert len(received) == 3


def test_a_large_message_and_one_that_is_none(rig: FaultRig, channel: grpc.Channel) -> None:
    values = [0.5] * 100_000  # 400 kB in many frames
    infer(channel, "alpha", *values)
    raw = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    for message in (b"\xff" * 20, b"\x0a\xff", b"", b"\x0a\x05alpha" + b"\x10\x01" * 5000):
        with pytest.raises(grpc.RpcError) as caught:
            raw(message, timeout=60)
        assert caught.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN)


# Shadows --------------------------------------------------------------------------------------------
def test_tensors_of_shadows_are_compared(rig: FaultRig, channel: grpc.Channel) -> None:
    infer(channel, "shadowed", 1.0, 2.0)
    rig.until(lambda: len(rig.shadowed) == 2)
    found = {row.shadow: row for row in rig.shadowed}
    assert (found["v2"].agrees, found["v2"].difference) == (True, 0.0)  # contents instead of raw contents
    assert (found["v3"].agrees, found["v3"].difference) == (False, 0.5)
    assert json.loads(found["v3"].detail)["first"][0]["where"] == "y[0]"


def test_a_stream_of_a_shadow_is_compared(rig: FaultRig, channel: grpc.Channel) -> None:
    list(stream(channel, iter([infer_request("shadowed", 1.0), infer_request("shadowed", 2.0)])))
    rig.until(lambda: len(rig.shadowed) == 2)
    assert {row.shadow: row.agrees for row in rig.shadowed} == {"v2": True, "v3": False}


def test_a_shadow_that_fails_is_told_by_its_status(rig: FaultRig, channel: grpc.Channel) -> None:
    TWO.failure, OTHER.failure = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT
    infer(channel, "shadowed")
    rig.until(lambda: len(rig.shadowed) == 2)
    found = {row.shadow: row for row in rig.shadowed}
    assert (found["v2"].status, found["v2"].error) == (503, "backend_status")
    assert (found["v3"].status, found["v3"].error, found["v3"].agrees) == (400, "", False)


# What counts as a failure ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("UNKNOWN", 500, "backend_status"), ("DEADLINE_EXCEEDED", 504, "backend_status"),
        ("RESOURCE_EXHAUSTED", 503, "backend_status"), ("INTERNAL", 500, "backend_status"),
        ("UNAVAILABLE", 503, "backend_status"), ("DATA_LOSS", 500, "backend_status"),
        ("INVALID_ARGUMENT", 400, ""), ("NOT_FOUND", 404, ""), ("PERMISSION_DENIED", 403, ""),
        ("FAILED_PRECONDITION", 400, ""), ("UNIMPLEMENTED", 404, ""), ("UNAUTHENTICATED", 401, ""),
    ],
)  # fmt: skip
def test_the_record_tells_whose_fault_a_status_is(
    rig: FaultRig, channel: grpc.Channel, code: str, status: int, error: str
) -> None:
    ONE.failure = grpc.StatusCode[code]
    assert failure(channel, "alpha").code() is ONE.failure
    found = rig.outcome()
    assert (found.status, found.error, found.served) == (status, error, "v1")


def test_what_is_too_large_for_the_backend_is_the_clients_fault(rig: FaultRig, channel: grpc.Channel) -> None:
    """The server says RESOURCE_EXHAUSTED; five of these in a row ejected it."""
    method = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        method(infer_request("alpha", 1.0).SerializeToString(), metadata=[("x", "v" * 40_000)], timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (rig.outcome().status, rig.outcome().error) == (413, "")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"SERVER: Received message larger than max (5242880 vs. 4194304)", 413),
        (b"grpc: received message larger than max (5242880 vs. 4194304)", 413),
        (b"gRPC message exceeds maximum size 4194304: 5242880", 413),
        (b"CLIENT: Received message larger than max (5242880 vs. 4194304)", 503),
        (b"the queue is full", 503),
    ],
    ids=["C", "Go", "Java", "response", "full"],
)
def test_messages_that_servers_refuse_as_too_large(message: bytes, status: int) -> None:
    lines = [b"grpc-message: " + message + b"\r\n", b"grpc-status: 8\r\n"]
    assert judged_status(lines, 200) == judged_status(lines[::-1], 200) == status
    assert judged_status([lines[0], b"grpc-status: 14\r\n"], 200) == 503


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("UNAVAILABLE", 503, "backend_status"),
        ("NOT_FOUND", 404, "backend_status"),
        ("INVALID_ARGUMENT", 400, ""),
        ("DEADLINE_EXCEEDED", 504, ""),
    ],
)
def test_a_status_behind_messages_counts_as_one_without(
    rig: FaultRig, channel: grpc.Channel, code: str, status: int, error: str
) -> None:
    """Also one that `fallback_on` or a rule of `errors.client` names."""
    ONE.failure = grpc.StatusCode[code]
    assert failure(channel, "named").code() is ONE.failure
    ONE.failure, ONE.late_failure = None, grpc.StatusCode[code]
    with pytest.raises(grpc.RpcError):
        list(stream(channel, iter([infer_request("named", 1.0)])))
    assert [(found.status, found.error) for found in rig.recorded(2)] == 2 * [(status, error)]


def states(rig: FaultRig, route: str) -> list[str]:
    live = rig.gateway.api.route_status(route)
    assert live is not None
    return [place["state"] for place in live.health["v1"]]


def test_faults_of_the_backend_eject_and_faults_of_clients_do_not(
    rig: FaultRig, channel: grpc.Channel
) -> None:
    for code in ("INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED"):
        ONE.failure = TWO.failure = grpc.StatusCode[code]
        for _ in range(6):
            failure(channel, "strict")
    assert states(rig, "strict") == ["healthy", "healthy"]
    ONE.failure, TWO.failure = grpc.StatusCode.UNAVAILABLE, None
    failures = 0
    for _ in range(20):
        try:
            infer(channel, "strict")
        except grpc.RpcError:
            failures += 1
    assert failures == 3
    assert states(rig, "strict") == ["ejected", "healthy"]


# Health and metadata --------------------------------------------------------------------------------
def test_health_is_asked_by_grpc(rig: FaultRig, channel: grpc.Channel) -> None:
    rig.until(lambda: states(rig, "probed") == ["healthy", "healthy"] and OTHER.probed)
    assert set(OTHER.probed) == {"models"}
    OTHER.serving = NOT_SERVING
    rig.until(lambda: states(rig, "probed") == ["healthy", "unhealthy"])
    told = [e for e in rig.events("health") if e["address"].endswith(str(OTHER.port))]
    assert told[-1]["reason"] == "grpc.health.v1 says that it is not SERVING"
    for _ in range(4):
        infer(channel, "probed")
    assert OTHER.models == []
    for serving, state in ((SERVING, "healthy"), (None, "unhealthy"), (SERVING, "healthy")):
        OTHER.serving = serving
        rig.until(lambda state=state: states(rig, "probed") == ["healthy", state])  # type: ignore[misc]
    told = [e for e in rig.events("health") if "does not serve grpc.health.v1" in e["reason"]]
    assert told[-1]["address"].endswith(str(OTHER.port))


def test_the_decision_stands_in_leading_and_trailing_metadata(rig: FaultRig, channel: grpc.Channel) -> None:
    _, call = infer(channel, "alpha")
    leading, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    for name in ("x-decision-id", "x-variant", "x-request-id"):
        assert leading[name] == trailing[name]
    assert trailing["x-variant"] == "v1"


def test_deadlines_of_clients_are_not_charged_to_the_backend(rig: FaultRig) -> None:
    message = infer_request("hurried", 1.0).SerializeToString()
    body = b"\0%b%b" % (len(message).to_bytes(4, "big"), message)
    head = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"),
        (b":path", f"/{SERVICE}/ModelInfer".encode()), (b"content-type", b"application/grpc"),
        (b"te", b"trailers"), (b"grpc-timeout", b"60m"),
    ]  # fmt: skip
    for server in SERVERS:
        server.delay = 0.5
    with Client(rig.port) as client:
        for stream in range(1, 17, 2):
            reply = client.request(headers(head, stream, end=False) + data(body, stream), stream)
            assert dict(reply.heads[-1])[b"grpc-status"] == b"4"
    rig.until(lambda: len(rig.outcomes) == 8)
    assert {(found.status, found.error) for found in rig.outcomes} <= {(499, "client_left"), (499, "")}
    assert states(rig, "hurried") == ["healthy", "healthy"]
