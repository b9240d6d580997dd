"""The fields that go onward with a good request, and come back with its answer."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from tests.support.backend import chunked, ok
from tests.wire.messages import PROBE, H
from tests.wire.messages import framed as post
from tests.wire.messages import with_lines as get
from tests.wire.rig import Rig


def fields_sent(rig: Rig, *lines: bytes, target: bytes = b"/p/x", **options: bytes) -> dict[str, list[bytes]]:
    """The fields that the backend sees, by lower-cased name, of a request with ``lines``."""
    with rig.client() as client:
        client.send(get(*lines, target=target, **options))
        assert client.answer().status == 200
    (request,) = rig.requests
    found: dict[str, list[bytes]] = {}
    for name, value in request.fields:
        found.setdefault(name.lower().decode(), []).append(value)
    return found


DROPPED = [
    b"connection: keep-alive", b"keep-alive: timeout=5", b"proxy-connection: keep-alive", b"te: trailers",
    b"trailer: x-t", b"upgrade: h2c", b"proxy-authorization: Basic eA==", b"proxy-authenticate: Basic",
    b"x-decision-id: forged", b"X-Decision-Id: forged", b"x_decision_id: forged", b"x-decision_id: forged",
    b"X_DECISION_ID: forged", b"x_variant: forged", b"server-timing: forged;dur=1", b"server_timing: forged",
    b"x_request_id: forged", b"x_forwarded_for: forged", b"x_forwarded-for: forged",
    b"x_forwarded_proto: forged", b"x-real-ip: forged", b"x_real_ip: forged", b"x-forwarded-port: forged",
    b"x-forwarded-prefix: forged", b"x-forwarded-server: forged", b"x-original-url: forged",
    b"x-rewrite-url: forged", b"x_api_key: forged", b"transfer_encoding: chunked", b"content_length: 5",
    b"proxy_authorization: forged",
]  # fmt: skip


@pytest.mark.parametrize("line", DROPPED, ids=[line.decode() for line in DROPPED])
def test_a_field_that_goes_no_further(rig: Rig, line: bytes) -> None:
    name, _, value = line.partition(b": ")
    found = fields_sent(rig, b"x-before: 1", line, b"x-after: 2")
    assert name.lower().decode() not in found
    assert not any(value in values for values in found.values() if value == b"forged")
    assert found["x-before"] == [b"1"]
    assert found["x-after"] == [b"2"]


PASSED = [
    b"accept: */*",
    b"Accept-Encoding: gzip, br",
    b"X-Custom: value",
    b"x-empty:",
    b"cookie: a=b; c=d",
    b"content-type: application/json",
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"user-agent: curl/8",
    b"X-Utf8: \xc3\xa9",
    b"x-high: \xff\xfe",
    b"x-tab: a\tb",
    b"x_underscore: kept",
    b"authorization: Bearer of-the-backend",
    b"x-api-key: of-the-backend",
    b'if-none-match: "x"',
    b"range: bytes=0-1",
    b"prefer: wait=1",
    b"!#$%&'*+-.^_`|~: odd",
]


@pytest.mark.parametrize("line", PASSED, ids=[line.decode("latin-1") for line in PASSED])
def test_a_field_that_goes_on_as_it_came(rig: Rig, line: bytes) -> None:
    name, _, value = line.partition(b":")
    found = fields_sent(rig, line)
    assert found[name.lower().decode()] == [value.strip()]
    assert name.lower() + b":" in rig.requests[0].head.lower()


def test_names_keep_their_case_and_fields_their_order(rig: Rig) -> None:
    lines = [b"X-One: 1", b"x-TWO: 2", b"x-one: 3", b"Set-Cookie: a", b"X-ONE: 1"]
    with rig.client() as client:
        client.send(get(*lines))
        assert client.answer().status == 200
    head = rig.requests[0].head
    places = [head.index(line) for line in lines]
    assert places == sorted(places)
    assert rig.requests[0].all("x-one") == [b"1", b"3", b"1"]


@pytest.mark.parametrize("pad", [b" ", b"\t", b" \t \t"])
def test_white_space_around_a_value_is_no_part_of_it(rig: Rig, pad: bytes) -> None:
    with rig.client() as client:
        client.send(get(b"x-padded:" + pad + b"a b" + pad))
        assert client.answer().status == 200
    assert b"\r\nx-padded: a b\r\n" in rig.requests[0].head + b"\r\n"


LISTED = {
    "one": ([b"connection: x-hop", b"x-hop: 1"], ["x-hop"]),
    "case": ([b"Connection: X-HOP", b"x-Hop: 1"], ["x-hop"]),
    "several": ([b"connection: x-hop, x-other", b"x-hop: 1", b"x-other: 2"], ["x-hop", "x-other"]),
    "two-lines": (
        [b"connection: x-hop", b"connection: x-other", b"x-hop: 1", b"x-other: 2"],
        ["x-hop", "x-other"],
    ),
    "before-and-after": ([b"x-hop: 1", b"connection: x-hop", b"x-hop: 2"], ["x-hop"]),
    "with-keep-alive": ([b"connection: keep-alive, x-hop", b"x-hop: 1"], ["x-hop"]),
    "empty-members": ([b"connection: , ,x-hop,,", b"x-hop: 1"], ["x-hop"]),
    "cookie": ([b"connection: cookie", b"cookie: a=b"], ["cookie"]),
    "authorization": ([b"connection: authorization", b"authorization: Bearer x"], ["authorization"]),
    "api-key": ([b"connection: x-api-key", b"x-api-key: x"], ["x-api-key"]),
}


@pytest.mark.parametrize("name", LISTED)
def test_fields_that_connection_lists_go_no_further(rig: Rig, name: str) -> None:
    lines, gone = LISTED[name]
    found = fields_sent(rig, b"x-kept: 1", *lines)
    assert not set(gone) & set(found)
    assert found["x-kept"] == [b"1"]
    assert "connection" not in found


def test_a_unit_that_connection_lists_is_none(rig: Rig) -> None:
    """What concerns the connection alone says nothing of whose request it is."""

    def variants(*lines: bytes) -> set[bytes]:
        with rig.client() as client:
            client.send(get(*lines, target=b"/units/x") * 40)
            return {client.answer().all("x-variant")[0] for _ in range(40)}

    assert len(variants(b"x-user-id: 7")) == 1
    assert len(variants(b"x-user-id: 7", b"connection: x-user-id")) == 2


@pytest.mark.parametrize(
    "name",
    [
        b"host", b"content-length", b"x-forwarded-for", b"forwarded", b"via", b"x-request-id",
        b"x-forwarded-host",
    ],
)  # fmt: skip
def test_connection_can_not_take_away_what_is_ours(rig: Rig, name: bytes) -> None:
    with rig.client() as client:
        client.send(post(b"connection: " + name, b"content-length: 3", body=b"abc"))
        assert client.answer().status == 200
    (request,) = rig.requests
    assert request.body == b"abc"
    assert request.all("content-length") == [b"3"]
    for ours in ("host", "x-forwarded-for", "forwarded", "via", "x-request-id", "x-forwarded-host"):
        assert len(request.all(ours)) == 1, ours


def test_what_a_backend_is_told_of_the_client(rig: Rig) -> None:
    found = fields_sent(rig)
    assert found["host"] == [b"127.0.0.1:%d" % rig.a.port]
    assert found["x-forwarded-for"] == [b"127.0.0.1"]
    assert found["x-forwarded-proto"] == [b"http"]
    assert found["x-forwarded-host"] == [b"gateway.test"]
    assert found["forwarded"] == [b'for=127.0.0.1;proto=http;host="gateway.test"']
    assert found["via"] == [b"1.1 turnout"]
    assert re.fullmatch(rb"[0-9a-f]{32}", found["x-request-id"][0])
    assert "content-length" not in found
    assert "transfer-encoding" not in found


def test_what_a_stranger_says_of_whom_it_forwards_for_is_dropped(rig: Rig) -> None:
    found = fields_sent(
        rig,
        b"x-forwarded-for: 10.0.0.1",
        b"x-forwarded-proto: https",
        b"x-forwarded-host: evil",
        b"forwarded: for=10.0.0.1",
    )
    assert found["x-forwarded-for"] == [b"127.0.0.1"]
    assert found["x-forwarded-proto"] == [b"http"]
    assert found["x-forwarded-host"] == [b"gateway.test"]
    assert found["forwarded"] == [b'for=127.0.0.1;proto=http;host="gateway.test"']


def test_via_is_added_to(rig: Rig) -> None:
    found = fields_sent(rig, b"via: 1.0 fred")
    assert found["via"] == [b"1.0 fred", b"1.1 turnout"]


def test_via_and_host_of_an_http_1_0_client(rig: Rig) -> None:
    found = fields_sent(rig, version=b"HTTP/1.0", host=b"")
    assert found["via"] == [b"1.0 turnout"]
    assert "x-forwarded-host" not in found
    assert found["forwarded"] == [b"for=127.0.0.1;proto=http"]
    assert found["host"] == [b"127.0.0.1:%d" % rig.a.port]


def test_the_authority_of_an_absolute_target_replaces_host(rig: Rig) -> None:
    found = fields_sent(rig, target=b"http://other.test:81/kept/x", host=H)
    assert found["host"] == [b"other.test:81"]
    assert found["x-forwarded-host"] == [b"other.test:81"]


def test_a_backend_that_keeps_the_host_and_adds_a_field(rig: Rig) -> None:
    found = fields_sent(rig, b"x-added: the client's", target=b"/kept/x")
    assert found["host"] == [b"gateway.test"]
    assert found["x-added"] == [b"1"]


@pytest.mark.parametrize("given", [b"abc-123", b"a" * 200, b"!~"])
def test_a_request_id_is_kept(rig: Rig, given: bytes) -> None:
    with rig.client() as client:
        client.send(get(b"x-request-id: " + given))
        assert client.answer().all("x-request-id") == [given]
    assert rig.requests[0].all("x-request-id") == [given]


@pytest.mark.parametrize("given", [b"", b"a b", b"a" * 201, "é".encode()])
def test_a_request_id_that_is_none_is_replaced(rig: Rig, given: bytes) -> None:
    with rig.client() as client:
        client.send(get(b"x-request-id: " + given))
        (found,) = client.answer().all("x-request-id")
    assert found != given
    assert rig.requests[0].all("x-request-id") == [found]


def test_expect_is_ours_to_answer(rig: Rig) -> None:
    found = fields_sent(rig, b"expect: 100-continue")
    assert "expect" not in found


@pytest.mark.parametrize(
    ("host", "ok"),
    [
        (b"gateway.test", True), (b"GATEWAY.TEST", True), (b"gateway.test:8080", True),
        (b"gateway.test:0", True), (b"gateway.test:65535", True), (b"gateway-1_x.test", True),
        (b"127.0.0.1", True), (b"127.0.0.1:80", True), (b"[::1]", True), (b"[2001:db8::1]:443", True),
        (b"[::ffff:127.0.0.1]", True), (b"xn--bcher-kva.internal", True), (b"a%20b", True),
        (b"localhost.", True),
    ],
)  # fmt: skip
def test_hosts_that_are_good(rig: Rig, host: bytes, ok: bool) -> None:
    found = fields_sent(rig, host=b"Host: " + host + b"\r\n", target=b"/kept/x")
    assert found["host"] == [host]


# Answers: the fields that come back ---------------------------------------------------------------------
def test_every_answer_carries_ours_and_only_ours(rig: Rig) -> None:
    rig.a.plans.append(
        [
            ok(
                b"body",
                b"x-decision-id: forged",
                b"X-Variant: forged",
                b"server-timing: forged",
                b"x-request-id: theirs",
                b"x_decision_id: forged",
                b"x_variant: forged",
                b"server_timing: forged",
            )
        ]
    )
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
    assert answer.all("x-variant") == [b"v1"]
    assert len(answer.all("x-decision-id")) == 1
    assert re.fullmatch(rb"gateway;dur=\d+\.\d{3}, backend;dur=\d+\.\d{3}", answer.all("server-timing")[0])
    assert len(answer.all("server-timing")) == 1
    assert len(answer.all("x-request-id")) == 1
    assert answer.all("x-request-id") != [b"theirs"]
    assert answer.all("x-backend-request-id") == [b"theirs"]
    assert not any(b"forged" in value for _, value in answer.fields)
    assert not any(b"_" in name for name, _ in answer.fields)


@pytest.mark.parametrize(
    "lines",
    [
        [b"connection: keep-alive"],
        [b"keep-alive: timeout=5, max=100"],
        [b"proxy-connection: keep-alive"],
        [b"te: trailers"],
        [b"trailer: x-t"],
        [b"upgrade: h2c"],
        [b"connection: upgrade", b"upgrade: h2,h2c"],
        [b"connection: x-hop", b"x-hop: 1"],
        [b"x-hop: 1", b"Connection: keep-alive, X-Hop"],
        [b"connection: x-hop", b"connection: x-more", b"x-hop: 1", b"x-more: 2"],
        [b"transfer_encoding: chunked"],
        [b"content_length: 5"],
    ],
)
def test_hop_by_hop_fields_of_an_answer_stay_behind(rig: Rig, lines: list[bytes]) -> None:
    rig.a.plans.append([ok(b"body", b"x-kept: 1", *lines)])
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
        assert answer.body == b"body"
        client.send(PROBE)
        assert client.answer().status == 200
    assert answer.all("x-kept") == [b"1"]
    for line in lines:
        assert answer.all(line.partition(b":")[0].decode()) == []


def test_answer_fields_keep_case_order_and_repetition(rig: Rig) -> None:
    lines = [
        b"Set-Cookie: a=1",
        b"X-B: \xc3\xa9",
        b"set-cookie: b=2",
        b"x-empty: ",
        b"WWW-Authenticate: Basic",
    ]
    rig.a.plans.append([ok(b"", *lines)])
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
    found = [b"%b: %b" % field for field in answer.fields]
    places = [found.index(line) for line in lines]
    assert places == sorted(places)
    assert answer.all("set-cookie") == [b"a=1", b"b=2"]


def test_trailers_of_an_answer_are_dropped(rig: Rig) -> None:
    rig.a.plans.append(
        [chunked(b"abc", lines=b"trailer: x-t\r\n", end=b"0\r\nx-t: 1\r\nx-variant: v9\r\n\r\n")]
    )
    with rig.client() as client:
        client.send(get())
        answer = client.answer()
        assert (answer.body, answer.trailer) == (b"abc", b"")
        client.send(PROBE)
        assert client.answer().status == 200


def test_the_record_keeps_the_backends_request_id(rig: Rig) -> None:
    """If it is one: a backend may send any bytes."""
    steps = [ok(b"x", b"x-request-id: %b" % sent) for sent in (b"theirs", b"not one")]
    rig.a.plans.extend([step] for step in steps)
    with rig.client() as client:
        for name in (b"kept-1", b"kept-2"):
            client.send(get(b"x-request-id: %b" % name))
            client.answer()
    for given, kept in (("kept-1", "theirs"), ("kept-2", "")):
        end = time.monotonic() + 60
        found: list[Any] = []
        while not found and time.monotonic() < end:
            url = f"http://127.0.0.1:{rig.port}/-/outcomes?request_id={given}"
            found = httpx.get(url).json()["outcomes"]
        assert [row["backend_request_id"] for row in found] == [kept]
