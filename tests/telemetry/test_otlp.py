"""The hand-written encoding, read back with the published protobuf classes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from gateway.telemetry import otlp

VALUES = st.one_of(
    st.text(max_size=300), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
TIMES = st.integers(1, 2**64 - 1)
"""Not 0: protobuf leaves it out, and nothing of ours happened in 1970."""


@given(
    ids=st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8)),
    parent=st.one_of(st.just(b""), st.binary(min_size=8, max_size=8)),
    values=st.dictionaries(st.text(min_size=1, max_size=40), VALUES, max_size=30),
    times=st.tuples(TIMES, TIMES, TIMES),
    flags=st.integers(1, 2**32 - 1),
    failed=st.booleans(),
)
def test_a_span_is_read_as_it_was_written(
    ids: tuple[bytes, bytes],
    parent: bytes,
    values: dict[str, otlp.Value],
    times: tuple[int, int, int],
    flags: int,
    failed: bool,
) -> None:
    made = otlp.span(
        trace_id=ids[0],
        span_id=ids[1],
        parent=parent,
        state=b"a=1" if parent else b"",
        name=b"POST /x",
        kind=otlp.SERVER,
        begun=times[0],
        ended=times[1],
        flags=flags,
        rest=[
            otlp.attributes(values.items()),
            otlp.event(b"sent", times[2]),
            otlp.link(ids[0], ids[1], flags, b"b=2"),
            otlp.ERROR if failed else b"",
        ],
    )
    about = otlp.resource({"service.name": "t", "n": 7}.items())
    body = otlp.request(about, otlp.scope("turnout", "1"), [made, made])
    message = ExportTraceServiceRequest.FromString(body)
    message.DiscardUnknownFields()
    assert message.ByteSize() == len(body)
    (resource,) = message.resource_spans
    assert [(a.key, a.value.WhichOneof("value")) for a in resource.resource.attributes] == [
        ("service.name", "string_value"),
        ("n", "int_value"),
    ]
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version, len(scope.spans)) == ("turnout", "1", 2)
    span = scope.spans[1]
    assert (span.trace_id, span.span_id, span.parent_span_id) == (*ids, parent)
    assert (span.name, span.kind, span.flags) == ("POST /x", Message.SPAN_KIND_SERVER, flags)
    assert span.trace_state == ("a=1" if parent else "")
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == times[:2]
    assert [(e.name, e.time_unix_nano) for e in span.events] == [("sent", times[2])]
    (link,) = span.links
    assert (link.trace_id, link.span_id, link.trace_state, link.flags) == (*ids, "b=2", flags)
    assert span.status.code == (2 if failed else 0)
    assert {a.key: (getattr(a.value, str(a.value.WhichOneof("value")))) for a in span.attributes} == values
    for a in span.attributes:
        kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
        assert a.value.WhichOneof("value") == kind[type(values[a.key])]


@given(
    st.text(min_size=1, max_size=30, alphabet=st.characters(max_codepoint=127)),
    st.text(max_size=400),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
)
def test_the_short_ways_say_the_same(name: str, text: str, whole: int, real: float) -> None:
    made = otlp.key(name)
    assert otlp.text(made, text.encode("utf-8", "replace")) == otlp.attribute(name, text)
    assert otlp.number(made, whole) == otlp.attribute(name, whole)
    assert otlp.real(made, real) == otlp.attribute(name, real)


@pytest.mark.parametrize("size", range(70, 140))
def test_the_short_way_ends_where_a_length_needs_two_bytes(size: int) -> None:
    made = otlp.key("k" * 10)
    assert otlp.text(made, b"v" * size) == otlp.attribute("k" * 10, "v" * size)


def test_what_is_no_text_does_not_stop_a_span() -> None:
    made = otlp.attribute("key", "\ud800 half a character", b"\x0a")
    assert b"? half" in made


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**64 - 1])
def test_a_varint_takes_seven_bits_a_byte(number: int) -> None:
    assert len(otlp.varint(number)) == max(1, math.ceil(number.bit_length() / 7))


def test_a_partial_success_is_understood() -> None:
    message = ExportTraceServiceResponse()
    assert otlp.rejected(message.SerializeToString()) == (0, "")
    message.partial_success.rejected_spans = 300
    message.partial_success.error_message = "too old"
    assert otlp.rejected(message.SerializeToString()) == (300, "too old")


@given(st.binary(max_size=200))
def test_nonsense_rejects_nothing_that_can_be_relied_on_and_raises_nothing(answer: bytes) -> None:
    number, why = otlp.rejected(answer)
    assert number >= 0
    assert isinstance(why, str)


def test_an_endless_number_ends() -> None:
    assert otlp.rejected(b"\x80" * 65_536) == (0, "")
