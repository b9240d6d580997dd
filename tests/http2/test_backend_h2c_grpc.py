"""gRPC servers that fail: their errors are recorded as such, fall back, and end with a status that clients read."""

from __future__ import annotations

import time
from contextlib import suppress

import grpc
import pytest

from tests.http2.backend import Http2Backend, Plan, Request
from tests.http2.client import PATIENCE, Client
from tests.http2.h2c import backend, kept, outcome, shared_rig, started, to
from tests.http2.inference import OWN_CONNECTION
from tests.http2.raw import Pair, data, headers
from tests.wire.rig import Rig

__all__ = ["backend", "shared_rig", "started"]
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
OK = b"\0\0\0\0\2ok"
"""A message."""


@pytest.mark.parametrize("end", ["reset", "abort"])
def test_a_grpc_call_that_breaks_off_ends_with_a_status(rig: Rig, backend: Http2Backend, end: str) -> None:
    """Not with a bare reset, which clients take for a fault in the protocol."""

    def break_off(request: Request) -> None:
        h2, connection = request.connection.h2, request.connection
        h2.send_headers(request.stream, HEAD)
        h2.send_data(request.stream, OK + b"\0\0\0")
        if end == "reset":
            h2.reset_stream(request.stream, 2)
        connection.flush()
        if end == "abort":
            connection.transport.close()

    backend.plans.append(break_off)
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options=[OWN_CONNECTION]) as channel:
        call = channel.unary_stream("/m/Stream", None, None, _registered_method=True)(b"", timeout=60)
        with pytest.raises(grpc.RpcError) as failed:
            assert [next(call), next(call)]
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    assert failed.value.details().startswith("backend_truncated: ")
    assert dict(failed.value.trailing_metadata())["x-variant"] == "v1"


@pytest.mark.parametrize(
    "end",
    [[(b"grpc-status", b"14")], [(b"x-a", b"b")], [], None],
    ids=["status", "none", "no trailers", "head alone"],
)
def test_a_grpc_failure_right_behind_leading_metadata_falls_back(
    rig: Rig, backend: Http2Backend, end: list[Pair] | None
) -> None:
    """As servers fail that send their leading metadata in a frame of its own."""

    def respond(trailers: list[Pair] | None, message: bytes) -> Plan:
        def plan(request: Request) -> None:
            h2, began = request.connection.h2, b"%d" % len(message)
            h2.send_headers(request.stream, [*HEAD, (b"x-began", began)], end_stream=trailers is None)
            if trailers is not None and (message or not trailers):
                h2.send_data(request.stream, message, end_stream=not trailers)
            if trailers:
                h2.send_headers(request.stream, trailers, end_stream=True)

        return plan

    backend.plans.extend([respond(end, b""), respond([(b"grpc-status", b"0")], OK)])
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options=[OWN_CONNECTION]) as channel:
        method = channel.unary_unary("/twice/Unary", None, None, _registered_method=True)
        response, call = method.with_call(b"", timeout=60)
    metadata = dict(call.initial_metadata())
    assert (response, metadata["x-variant"], metadata["x-began"]) == (b"ok", "v2", "7")
    assert len(backend.requests) == 2


@pytest.mark.parametrize(
    ("trailer", "status"),
    [(None, 500), ((b"x-a", b"b"), 500), ((b"grpc-status", b"x"), 500), ((b"grpc-status", b"0"), 200)],
)
def test_a_grpc_response_without_a_status_is_a_failure(
    rig: Rig, backend: Http2Backend, trailer: Pair | None, status: int
) -> None:
    """As for its client, which gets UNKNOWN; it was counted as a success."""

    def respond(request: Request) -> None:
        h2 = request.connection.h2
        h2.send_headers(request.stream, HEAD)
        h2.send_data(request.stream, OK, end_stream=trailer is None)
        if trailer is not None:
            h2.send_headers(request.stream, [trailer], end_stream=True)

    backend.plans.append(respond)
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options=[OWN_CONNECTION]) as channel:
        call = channel.unary_stream("/m/Unary", None, None, _registered_method=True)(b"", timeout=60)
        with suppress(grpc.RpcError):
            assert list(call) == [b"ok"]
        asked = dict(call.initial_metadata())["x-request-id"]

    found = outcome(rig, asked)
    assert (found["status"], found["error"]) == (status, "backend_status" if status == 500 else "")


def test_a_shadows_grpc_response_without_a_status_is_a_failure(rig: Rig, backend: Http2Backend) -> None:
    """Copies are dropped while the machine is busy, so it is tried until one goes out."""

    def respond(request: Request) -> None:
        request.connection.respond(request, HEAD, OK)

    fields = to(b"/ms/Unary", (b"content-type", b"application/grpc"))
    backend.plans.append(respond)
    with Client(rig.port) as client:
        deadline = time.monotonic() + PATIENCE
        stream = -1
        while not backend.requests:
            assert time.monotonic() < deadline
            stream += 2
            reply = client.request(headers(fields, stream, end=False) + data(b"", stream), stream)
            rig.settle()
    copy = kept(rig, f"decisions/{dict(reply.heads[0])[b'x-decision-id'].decode()}", "shadows")
    assert (copy["status"], copy["error"]) == (500, "backend_status")


def test_trailers_do_not_turn_an_error_of_the_client_into_one_of_the_backend(
    rig: Rig, backend: Http2Backend
) -> None:
    def respond(request: Request) -> None:
        request.connection.respond(request, [(b":status", b"500")], b"bad shape", [(b"x-a", b"b")])

    backend.plans.append(respond)
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/excused")))
    found = outcome(rig, dict(reply.heads[0])[b"x-request-id"].decode())
    assert (found["status"], found["error"]) == (500, "")


@pytest.mark.parametrize("status", [b"200", b"204"])
def test_a_response_that_is_not_grpc_falls_back(rig: Rig, backend: Http2Backend, status: bytes) -> None:
    def page(request: Request) -> None:
        body = b"<html>" if status == b"200" else b""
        request.connection.respond(request, [(b":status", status), (b"content-type", b"text/html")], body)

    def respond(request: Request) -> None:
        h2 = request.connection.h2
        h2.send_headers(request.stream, HEAD)
        h2.send_data(request.stream, OK)
        h2.send_headers(request.stream, [(b"grpc-status", b"0")], end_stream=True)

    backend.plans.extend([page, respond])
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options=[OWN_CONNECTION]) as channel:
        method = channel.unary_unary("/twice/Unary", None, None, _registered_method=True)
        response, call = method.with_call(b"", timeout=60)
    assert (response, dict(call.initial_metadata())["x-variant"]) == (b"ok", "v2")


def test_a_page_with_trailers_becomes_a_status(rig: Rig, backend: Http2Backend) -> None:
    def page(request: Request) -> None:
        head = [(b":status", b"404"), (b"content-type", b"text/html")]
        request.connection.respond(request, head, b"<html>", [(b"x-a", b"b")])

    backend.plans.append(page)
    with Client(rig.port) as client:
        reply = client.request(headers(to(b"/m/Unary", *GRPC)))
    assert (reply.status, reply.body, len(reply.heads)) == (200, b"", 1)
    assert dict(reply.heads[0])[b"grpc-status"] == b"12"
