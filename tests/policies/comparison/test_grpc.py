"""Responses of ModelInfer over gRPC: as tensors, whatever form their contents have; hostile bytes raise nothing."""

from __future__ import annotations

import contextlib
import gzip
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.rpc.messages import MESSAGES
from policies.comparison.bodies import Malformed, Response
from policies.comparison.compare import compare
from policies.comparison.protobuf import fields, messages


def framed(*parts: bytes, compressed: bool = False) -> bytes:
    out = b""
    for part in parts:
        data = gzip.compress(part) if compressed else part
        out += bytes((compressed,)) + len(data).to_bytes(4, "big") + data
    return out


def response(body: bytes) -> Response:
    return Response(body, "application/grpc")


def raw(values: list[float], *, name: str = "y") -> Any:
    found = MESSAGES["ModelInferResponse"](model_name="m", id="of its own")
    found.outputs.add(name=name, datatype="FP32", shape=[len(values)])
    found.raw_output_contents.append(struct.pack(f"<{len(values)}f", *values))
    return found


def typed(datatype: str, shape: list[int], **contents: Any) -> bytes:
    """With field 5 of an output, which the bundled server's messages have not."""
    found = MESSAGES["ModelInferResponse"](model_name="m")
    output = found.outputs.add(name="y", datatype=datatype, shape=shape)
    data: bytes = MESSAGES["InferTensorContents"](**contents).SerializeToString()
    output.MergeFromString(b"\x2a%c%b" % (len(data), data))
    return bytes(found.SerializeToString())


def test_raw_and_typed_contents_are_alike() -> None:
    first = response(framed(raw([1.0, 2.5]).SerializeToString()))
    second = response(framed(typed("FP32", [2], fp32_contents=[1.0, 2.5])))
    for found in (compare(first, second), compare(second, first)):
        assert (found.verdict, found.form, found.difference) == ("agrees", "v2", 0.0)


@pytest.mark.parametrize(
    ("datatype", "one", "other"),
    [
        ("FP32", {"fp32_contents": [1.0]}, {"fp32_contents": [1.5]}),
        ("FP64", {"fp64_contents": [1.0]}, {"fp64_contents": [1.5]}),
        ("INT8", {"int_contents": [-3]}, {"int_contents": [3]}),
        ("INT64", {"int64_contents": [-(2**62)]}, {"int64_contents": [2**62]}),
        ("UINT32", {"uint_contents": [7]}, {"uint_contents": [8]}),
        ("UINT64", {"uint64_contents": [2**63]}, {"uint64_contents": [2**63 + 1]}),
        ("BOOL", {"bool_contents": [True]}, {"bool_contents": [False]}),
        ("BYTES", {"bytes_contents": [b"\xff\0"]}, {"bytes_contents": [b"\xff\1"]}),
    ],
)
def test_each_datatype(datatype: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = framed(typed(datatype, [1], **one)), framed(typed(datatype, [1], **other))
    padded = framed(typed(datatype, [1], **one) + b"\x1a\x01x")  # another id
    assert compare(response(first), response(padded)).verdict == "agrees"
    found = compare(response(first), response(second))
    assert (found.verdict, found.form) == ("differs", "v2")


def test_the_messages_of_a_stream_are_one() -> None:
    def stream(*parts: Any) -> Response:
        wrap = MESSAGES["ModelStreamInferResponse"]
        return response(framed(*(wrap(infer_response=part).SerializeToString() for part in parts)))

    whole, cut = stream(raw([1.0, 2.0, 3.0])), stream(raw([1.0]), raw([2.0, 3.0]))
    assert compare(whole, cut).verdict == "agrees"
    assert compare(whole, stream(raw([1.0]), raw([2.0, 4.0]))).verdict == "differs"


def test_a_response_without_outputs_says_what_it_holds() -> None:
    """Field 1 is the name of a model in one message, and an error in another."""
    empty, good = (framed(body) for body in (b"\x0a\x01m", raw([1.0]).SerializeToString()))
    found = compare(response(good), response(empty))
    assert found.agrees is False
    assert "the response has no outputs but says: m" in found.detail


def test_compressed_messages_are_read_and_a_bomb_is_not() -> None:
    message = raw([1.0]).SerializeToString()
    assert compare(response(framed(message)), response(framed(message, compressed=True))).verdict == "agrees"
    bomb = response(framed(bytes(9 << 20), compressed=True))
    other = response(framed(bytes(9 << 20)))
    assert compare(bomb, other).verdict != "agrees"


def test_many_messages_unfold_together_to_no_more_than_one_may() -> None:
    """A body of 8 MiB held a thousand messages of 8 MiB each: 16 GB of numbers."""
    body = framed(*[bytes(3 << 20)] * 3, compressed=True)
    read = messages(body)
    assert [len(next(read)) for _ in range(2)] == [3 << 20] * 2
    with pytest.raises(Malformed, match="larger"):
        next(read)


def test_other_services_are_bytes() -> None:
    first, second = response(framed(b"\x0a\x01a")), response(framed(b"\x0a\x01b"))
    found = compare(first, second)
    assert (found.verdict, found.form) == ("differs", "bytes")
    assert compare(first, first).verdict == "agrees"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_malformed(data: bytes) -> None:
    for read in (lambda: list(fields(data)), lambda: list(messages(data))):
        with contextlib.suppress(Malformed):
            read()
    good = response(framed(raw([1.0]).SerializeToString()))
    for body in (data, framed(data), framed(data, compressed=True), framed(b"\x2a" + data)):
        compare(good, response(body))
        compare(response(body), good)
