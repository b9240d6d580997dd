"""Encodings that are remembered: what, how much of it, and never a credential."""

from __future__ import annotations

import pytest
from hpack import Decoder as ReferenceDecoder

from gateway.dataplane.client.http2.head import again
from gateway.dataplane.request.credentials import Credentials
from gateway.dataplane.request.head import Head
from gateway.http.fields import PROXY
from gateway.http2.fields import Field, RequestFields
from gateway.http2.hpack import MAX_REMEMBERED, MAX_REMEMBERED_BYTES, REPEATED_LINES
from gateway.transport.http2_head import HeadEncoder


def decoded(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in ReferenceDecoder().decode(block, raw=True)]


def test_a_repeated_head_is_the_same_as_the_first() -> None:
    encoder = HeadEncoder(b"http")
    for number in range(3):
        own = b"x-request-id: r%d\r\ncontent-length: 2\r\n\r\n" % number
        parts = [b"POST /a?b HTTP/1.1\r\nhost: h\r\n", b"Accept: */*\r\n", b"x-a: 1\r\nx-b: 2\r\n", b"", own]
        assert decoded(encoder.encode(parts)) == [
            *((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a?b"), (b":authority", b"h")),
            *((b"te", b"trailers"), (b"accept", b"*/*"), (b"x-a", b"1"), (b"x-b", b"2")),
            *((b"x-request-id", b"r%d" % number), (b"content-length", b"2")),
        ]


def test_a_head_in_one_part_has_its_framing_removed() -> None:
    head = b"GET / HTTP/1.1\r\nx-a: 1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    assert decoded(HeadEncoder(b"https").encode([head]))[2:] == [
        *((b":path", b"/"), (b":authority", b"h"), (b"te", b"trailers"), (b"x-a", b"1"))
    ]


def test_as_many_lines_are_remembered_as_may_be() -> None:
    for number in range(2 * MAX_REMEMBERED + 10):
        line = b"x-line: %d\r\n" % number
        assert decoded(REPEATED_LINES[line]) == [(b"x-line", b"%d" % number)]
        assert len(REPEATED_LINES) <= MAX_REMEMBERED
    long = b"x-long: %b\r\n" % (b"v" * MAX_REMEMBERED_BYTES)
    assert decoded(REPEATED_LINES[long])[0][0] == b"x-long"
    assert long not in REPEATED_LINES


@pytest.mark.parametrize("name", [b"Authorization", b"cookie", b"X-Api-Key", b"set-cookie"])
def test_a_credential_is_not_remembered(name: bytes) -> None:
    lines = b"x-a: 1\r\n%b: secret\r\n" % name
    assert decoded(REPEATED_LINES[lines])[1] == (name.lower(), b"secret")
    assert lines not in REPEATED_LINES


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ([(b"content-length", b"3")], ""),
        ([(b"content-length", b"3"), (b"content-length", b"3")], "an invalid or repeated content-length"),
        ([(b"content-length", b"")], "an invalid or repeated content-length"),
        ([(b"content-length", b"+3")], "an invalid or repeated content-length"),
        ([(b":path", b"/")], "a repeated ':path'"),
        ([(b":path", b"")], "an empty ':path'"),
        ([(b":status", b"200")], "':status' in a request"),
        ([(b"a", b"b"), (b":path", b"/")], "a pseudo-header field after a regular one"),
        ([(b":protocol", b"x")], "an unknown pseudo-header field"),
    ],
)
def test_what_makes_a_request_malformed(extra: list[tuple[bytes, bytes]], fault: str) -> None:
    head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"h")]
    fields = RequestFields([Field(name, value) for name, value in head + extra])
    assert fields.fault == fault
    assert (fields.method, fields.authority) == (b"GET", b"h")


def test_the_last_type_and_no_repeated_timeout_count() -> None:
    head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"h")]
    types = [(b"content-type", b"a"), (b"content-type", b"b")]
    once = RequestFields([Field(*pair) for pair in [*head, *types, (b"grpc-timeout", b"1S")]])
    assert (once.content_type, once.timeout, once.length, len(once.regular)) == (b"b", b"1S", -1, 3)
    twice = RequestFields(
        [Field(*pair) for pair in [*head, (b"grpc-timeout", b"1S"), (b"grpc-timeout", b"1S")]]
    )
    assert twice.timeout == b""


# What HTTP/2 has not, what each request is told on its own, and what `Head.settle` alone looks at.
NOT_OF_FIELDS = {
    *("upgrade", "wants_upgrade", "http10", "connection", "codings", "hosts"),
    *("close", "principal", "started", "trace", "expects_continue", "chunked"),
}


def test_another_head_of_the_same_fields_has_all_of_them() -> None:
    known, credentials = Head(1.0), Credentials()
    credentials.key = b"k"
    values = dict[str, object](
        method=b"PUT", target=b"/a?b", path=b"/a", host=b"h", length=3, expect=True, credentials=credentials,
        variant=b"v", request_id=b"r", kept={b"a": b"b"}, grpc=True, grpc_timeout=2.0,
        proxy_fields=((PROXY, b"p"),), lines=[b"a: b\r\n"],
    )  # fmt: skip
    for name, value in values.items():
        setattr(known, name, value)
    head = again(known, 7.0, end=False)
    assert {name: getattr(head, name) for name in values} == values
    assert (head.started, head.chunked, head.close) == (7.0, False, False)
    every = {name for name in dir(Head) if name[0] != "_" and not callable(getattr(Head, name))}
    assert every - NOT_OF_FIELDS <= values.keys()
    known.length = -1
    assert [again(known, 7.0, end=end).chunked for end in (False, True)] == [True, False]
