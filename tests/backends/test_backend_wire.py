"""Requests as bytes, without a server."""

from __future__ import annotations

import contextlib
import gc
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.config import ModelConfig
from backends.datatypes import bf16_to_fp32, fp32_to_bf16
from backends.errors import InvalidInput, TooLarge
from backends.wire.document import refuse_duplicates
from backends.wire.request import MAX_JSON_BYTES
from backends.wire.signature import Signature
from tests.backends.wire_requests import array, parse, parsed, refused, signature, tensor, with_binary


def test_flat_and_nested_data_are_the_same() -> None:
    flat = parsed({"inputs": [tensor([1, 2, 3, 4, 5, 6], (2, 3))]})
    nested = parsed({"inputs": [tensor([[1, 2, 3], [4, 5, 6.0]], (2, 3))]})
    assert flat.plan.rows == nested.plan.rows == 2
    np.testing.assert_array_equal(array(flat), array(nested))
    assert array(flat).dtype == np.float32


def test_deeply_nested_data() -> None:
    sign = signature(dims=(2, -1))
    request = parsed({"inputs": [tensor([[[1], [2]]], (1, 2, 1))]}, sign)
    assert array(request, 0).tolist() == [[[1.0], [2.0]]]
    assert request.plan.key == ((2, 1),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "w"}, "unknown input 'w'; the model takes 'x' (FP32 [-1, 3])"),
        ({"name": ["x"]}, "unknown input ['x']"),
        ({"datatype": "FP64"}, "input 'x' came with datatype 'FP64'; send FP32"),
        ({"datatype": None}, "came with datatype None"),
        ({"shape": [1, 4]}, "came with shape [1, 4]; send [-1, 3]"),
        ({"shape": [-1, 3]}, "came with shape [-1, 3]"),
        ({"shape": [True, 3]}, "not a list of whole numbers"),
        ({"shape": [1.0, 3]}, "not a list of whole numbers"),
        ({"shape": [10**30, 3]}, "not a list of whole numbers"),
        ({"shape": [1] * 40}, "not a list of whole numbers"),
        ({"shape": 3}, "not a list of whole numbers"),
        ({"shape": [2**40, 3]}, "has 3 values in data; shape [1099511627776, 3] needs"),
        ({"shape": [0, 3], "data": []}, "has 0 rows; send from 1 to 4"),
        ({"shape": [5, 3], "data": [0] * 15}, "has 5 rows; send from 1 to 4"),
        ({"data": [1, 2]}, "has 2 values in data"),
        ({"data": {"0": 1}}, "is not a list"),
        ({"data": "123"}, "is not a list"),
        ({"data": None}, "is not a list"),
        ({"data": [1, 2, "3"]}, "send only numbers"),
        ({"data": [1, 2, True]}, "send only numbers"),
        ({"data": [1, 2, None]}, "send only numbers"),
        ({"data": [1, 2, {}]}, "send only numbers"),
        ({"data": [1, 2, 1e39]}, "outside the range of FP32"),
        ({"data": [1, 2, 10**40]}, "outside the range of FP32"),
        ({"data": [[1, 2], [3]]}, "nested otherwise than its shape"),
        ({"data": [[1, 2, 3], 4]}, "nested otherwise than its shape"),
        ({"data": [[[1], [2], [3]]]}, "send only numbers"),
        ({"parameters": {"binary_data_size": 12}}, "in exactly one form"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
        ({"parameters": []}, "is not a JSON object"),
    ],
)
def test_what_is_wrong_with_an_input_is_said(change: dict[str, Any], message: str) -> None:
    assert message in refused({"inputs": [{**tensor(), **change}]})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "is not a JSON object"),
        ({}, "inputs is not a list of tensors; send 'x' (FP32 [-1, 3])"),
        ({"inputs": []}, "inputs is not a list"),
        ({"inputs": [3]}, "an entry of inputs is not a JSON object"),
        ({"inputs": [tensor(), tensor()]}, "is there twice"),
        ({"inputs": [tensor()], "input": 1}, "unknown key 'input'"),
        ({"inputs": [tensor()], "id": 7}, "id is not a string"),
        ({"inputs": [tensor()], "outputs": [{"name": "q"}]}, "unknown output 'q'; the model gives 'y'"),
        ({"inputs": [tensor()], "outputs": {"name": "y"}}, "outputs is not a list"),
        ({"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "y"}]}, "asked for twice"),
        ({"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "not a boolean"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": "yes"}}, "not a boolean"),
        ({"inputs": [tensor()], "parameters": {"timeout": -1}}, "timeout is not a whole number"),
        ({"inputs": [tensor()], "parameters": {"sequence_id": 5}}, "sequences are not served"),
        ({"inputs": [tensor()], "parameters": {"priority": "high"}}, "priority is not a whole number"),
        ({"inputs": [tensor()], "parameters": {"note": {"a": 1}}}, "parameter note of the request is not a str"),
        ({"inputs": [tensor(parameters={"note": []})]}, "parameter note of input 'x' is not a string"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_said(document: Any, message: str) -> None:
    assert message in refused(document)


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"inputs": [NaN]}', b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x']
)
def test_what_is_not_json(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="not valid JSON"):
        parse(text, None, signature())


def test_a_key_that_is_there_twice() -> None:
    one, two = json.dumps([tensor()]), json.dumps([tensor([4, 5, 6])])
    with pytest.raises(InvalidInput, match="occurs twice"):
        parse(f'{{"inputs": {one}, "inputs": {two}}}'.encode(), None, signature())
    assert parse(f'{{"inputs": {one}, "id": "\\"inputs\\""}}'.encode(), None, signature()).plan.rows == 1
    assert parse(f'{{"inputs": {one}, "id": "inputs"}}'.encode(), None, signature()).plan.id == "inputs"


def test_a_key_that_is_there_twice_above_deep_nesting() -> None:
    """Was a RecursionError: a 500, charged to the backend, and the end of the process that parses large JSON."""
    text = b'{"inputs": [], "inputs": [], "parameters": %b}' % (b"[" * 1015 + b"]" * 1015)
    with pytest.raises(InvalidInput, match=r"nested too deeply|occurs twice"):
        parse(text, None, signature())


def test_keys_are_compared_without_the_garbage_collector() -> None:
    """A body of 3 MB with the key twice held the event loop for 2 s, most of it in the collector."""
    seen: list[str] = []
    text = b'{"inputs": [], "inputs": [%b[]]}' % (b"[]," * 100_000)
    callback = lambda phase, info: seen.append(phase)  # noqa: E731
    gc.callbacks.append(callback)
    try:
        refuse_duplicates(memoryview(b"{}"))
        with pytest.raises(InvalidInput, match="occurs twice"):
            refuse_duplicates(memoryview(text))
    finally:
        gc.callbacks.remove(callback)
    assert seen.count("start") < 5, "100,000 lists are 140 collections"


@pytest.mark.parametrize("shape", [[0, 2**63 - 1, 2], [0, 2**63], [2**62, 0, 2**62], [0, 2**61]])
def test_an_empty_shape_beyond_any_array(shape: list[int]) -> None:
    """S32: numpy's own error became a 500."""
    config = ModelConfig.model_validate(
        {
            "name": "m",
            "platform": "pytorch_module",
            "input": [{"name": "x", "data_type": "FP32", "dims": [-1] * len(shape)}],
            "output": [{"name": "y", "data_type": "FP32", "dims": [1]}],
        }
    )
    assert "shape of input 'x'" in refused({"inputs": [tensor([], shape)]}, Signature.of(config))


def test_json_beyond_its_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge, match="send tensors as binary data"):
        parse(b" " * (MAX_JSON_BYTES + 1), None, signature())


def test_lone_surrogates_are_refused() -> None:
    entry = json.dumps({"inputs": [tensor(["\ud800", "", ""], datatype="BYTES")]}).encode()
    with pytest.raises(InvalidInput):
        parse(entry, None, signature("BYTES"))


@pytest.mark.parametrize("length", [b"-1", b"x", b"", b"1e3", b"99999", b"9" * 5000, b"\xc2\xb2"])
def test_header_lengths_that_are_none(length: bytes) -> None:
    with pytest.raises(InvalidInput, match="inference-header-content-length"):
        parse(b"{}", length, signature())


def test_a_message_does_not_quote_without_end() -> None:
    assert len(refused({"inputs": [{**tensor(), "name": "n" * 100_000}]})) < 1100


def test_integers_keep_every_bit_and_their_range() -> None:
    extremes = [0, 2**63, 2**64 - 1]
    request = parsed({"inputs": [tensor(extremes, datatype="UINT64")]}, signature("UINT64"))
    assert array(request, 0).tolist() == [extremes]
    for value in (-1, 2**64):
        assert "UINT64" in refused(
            {"inputs": [tensor([0, 0, value], datatype="UINT64")]}, signature("UINT64")
        )
    assert "range of INT8" in refused({"inputs": [tensor([0, 0, 128], datatype="INT8")]}, signature("INT8"))
    assert "whole numbers" in refused({"inputs": [tensor([0, 0, 1.0], datatype="INT8")]}, signature("INT8"))


def test_small_floats_round_and_large_ones_are_refused() -> None:
    half = parsed({"inputs": [tensor([0.1, 65504, -1e-9], datatype="FP16")]}, signature("FP16"))
    assert array(half, 0).tolist() == [[np.float16(0.1), 65504.0, 0.0]]
    assert "range of FP16" in refused({"inputs": [tensor([65520, 0, 0], datatype="FP16")]}, signature("FP16"))
    brain = parsed({"inputs": [tensor([1.5, -3, 0], datatype="BF16")]}, signature("BF16"))
    assert bf16_to_fp32(array(brain)).tolist() == [[1.5, -3.0, 0.0]]
    largest = float(np.finfo(np.float32).max)
    assert "range of BF16" in refused(
        {"inputs": [tensor([largest, 0, 0], datatype="BF16")]}, signature("BF16")
    )


def test_bfloat16_rounds_to_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -2.5], dtype=np.float32)
    assert bf16_to_fp32(fp32_to_bf16(values)).tolist() == [1.0, 1.0, 1.015625, -2.5]


def test_binary_data_of_two_inputs_follow_one_another() -> None:
    config = ModelConfig.model_validate(
        {
            "name": "m",
            "platform": "pytorch_module",
            "input": [
                {"name": "a", "data_type": "INT16", "dims": [2]},
                {"name": "b", "data_type": "BYTES", "dims": [-1]},
            ],
            "output": [{"name": "y", "data_type": "INT16", "dims": [2]}],
        }
    )
    text = struct.pack("<I", 2) + b"hi" + struct.pack("<I", 0)
    entries = [
        {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(text)}},
        {"name": "a", "datatype": "INT16", "shape": [2], "parameters": {"binary_data_size": 4}},
    ]
    head = json.dumps({"inputs": entries}).encode()
    request = parse(head + text + struct.pack("<hh", -1, 300), b"%d" % len(head), Signature.of(config))
    assert array(request, 0).tolist() == [-1, 300]
    assert array(request, 1).tolist() == [b"hi", b""]
    assert request.plan.rows == 1


@pytest.mark.parametrize(
    ("size", "shape", "datatype", "raw", "message"),
    [
        (12, (1, 3), "FP32", b"\0" * 11, "the body ends inside|has 11 bytes"),
        (12, (1, 3), "FP32", b"\0" * 13, "1 bytes follow the last tensor"),
        (8, (1, 3), "FP32", b"\0" * 8, r"has 8 bytes of data; FP32 \[1, 3\] needs 12"),
        (12, (2**40, 3), "FP32", b"\0" * 12, "needs 13194139533312"),
        (-1, (1, 3), "FP32", b"", "is not a size"),
        (3, (1, 3), "BOOL", b"\0\1\2", "only the bytes 0 and 1"),
        (3, (1, 3), "BYTES", b"\0\0\0", "breaks off inside a length"),
        (5, (1, 3), "BYTES", b"\xff\xff\xff\xff0", "breaks off inside an element of 4294967295 bytes"),
        (8, (1, 3), "BYTES", b"\0" * 8, "has 2 elements; its shape needs 3"),
    ],
)
def test_binary_data_that_is_wrong(
    size: int, shape: tuple[int, ...], datatype: str, raw: bytes, message: str
) -> None:
    body, length = with_binary(size, shape, datatype, raw)
    with pytest.raises(InvalidInput, match=message):
        parse(body, length, signature(datatype))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), JSON),
    JSON,
    st.binary(),
)
def test_no_input_raises_anything_but_invalid_input(entry: dict[str, Any], more: Any, raw: bytes) -> None:
    document = {"inputs": [{**tensor(), **entry}], "parameters": more, "outputs": more}
    head = json.dumps(document).encode()
    for body, length in ((head, None), (head + raw, b"%d" % len(head)), (raw, None), (head[:-3], None)):
        with contextlib.suppress(InvalidInput):
            request = parse(body, length, signature())
            assert array(request, 0).shape[1:] == (3,)
