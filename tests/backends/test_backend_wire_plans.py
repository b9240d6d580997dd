"""What is remembered of requests, and the responses to them, as bytes."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import threading
import weakref
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import inference
from backends.datatypes import DATATYPES
from backends.errors import InvalidInput, TooLarge
from backends.http.message import Request, Response
from backends.http.request_head import RequestHead
from backends.wire.compression import unpack
from backends.wire.request import MAX_JSON_BYTES, MAX_REMEMBERED_PLANS, Plans
from tests.backends.wire_requests import array, parse, parsed, signature, tensor, with_binary


def test_values_of_json_are_freed_with_their_request() -> None:
    """The plan kept them: 256 requests of other shapes held up to 4 MiB each."""
    plans = Plans(signature(dims=(-1,)))
    request = plans.parse(json.dumps({"inputs": [tensor([1] * 5, (1, 5))]}).encode(), None)
    values = weakref.ref(request.inputs[0])
    assert values() is not None
    del request
    assert values() is None


def test_equal_heads_are_checked_once_and_their_data_each_time() -> None:
    plans = Plans(signature())
    for value in (1.0, 2.0):
        body, length = with_binary(12, (1, 3), "FP32", struct.pack("<3f", value, 0, 0))
        request = plans.parse(body, length)
        assert array(request).tolist() == [[value, 0, 0]]
        assert request.plan is plans.parse(body, length).plan
        for wrong, message in ((body[:-1], "the body ends inside"), (body + b"x", "1 bytes follow")):
            with pytest.raises(InvalidInput, match=message):
                plans.parse(wrong, length)


FORMS = (
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":%b}]}',
    b'{"inputs":[{"data" : %b,"name":"x","datatype":"FP32","shape":[1,3]}], "parameters": {"a": "data"}}',
    b'{"parameters":{"data":"data"},"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":%b}]}',
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(FORMS),
            st.one_of(
                st.lists(
                    st.integers(-9, 9)
                    | st.floats(allow_nan=False, width=16)
                    | st.sampled_from(["]", "[", "x"]),
                    max_size=4,
                ),
                st.just([[1, 2, 3]]),
                st.just({"data": [1]}),
                st.just([1, [2], 3]),
            ),
        ),
        max_size=12,
    )
)
def test_a_memory_of_json_changes_no_result(requests: list[tuple[bytes, Any]]) -> None:
    """With a memory of what stands around the values, each body means what it means alone."""

    def outcome(plans: Plans, body: bytes) -> object:
        try:
            request = plans.parse(body, None)
        except InvalidInput as error:
            return error.message
        return array(request).tolist(), request.plan.rows, request.plan.key

    plans = Plans(signature())
    for form, data in requests:
        body = form % json.dumps(data).encode()
        assert outcome(plans, body) == outcome(Plans(signature()), body)


def test_json_is_remembered_without_its_values() -> None:
    plans = Plans(signature())
    one, two = (plans.parse(FORMS[0] % data, None) for data in (b"[1,2,3]", b"[4, 5,6e0]"))
    assert one.plan is two.plan
    assert array(two).tolist() == [[4, 5, 6]]


def test_the_memory_of_heads_is_bounded() -> None:
    plans = Plans(signature())
    body, _ = with_binary(12, (1, 3), "FP32", b"")
    for spaces in range(3 * MAX_REMEMBERED_PLANS):
        head = body + b" " * spaces
        plans.parse(head + bytes(12), b"%d" % len(head))
    assert len(plans._plans) <= MAX_REMEMBERED_PLANS


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_values_that_need_a_look_get_one_each_time(datatype: str) -> None:
    plans = Plans(signature(datatype))
    good, bad = (bytes(3), b"\2\0\0") if datatype == "BOOL" else (bytes(12), bytes(8) + b"\1\0\0\0")
    body, length = with_binary(len(good), (1, 3), datatype, good)
    plans.parse(body, length)
    with pytest.raises(InvalidInput):
        plans.parse(body[: -len(good)] + bad, length)


def test_outputs_are_chosen_each_in_its_form() -> None:
    sign = signature()
    document = {"inputs": [tensor()], "parameters": {"binary_data_output": True}}
    assert [binary for _, binary in parsed(document, sign).plan.outputs] == [True, True]
    document["outputs"] = [{"name": "z", "parameters": {"binary_data": False}}, {"name": "y"}]
    assert [(spec.name, binary) for spec, binary in parsed(document, sign).plan.outputs] == [
        ("z", False),
        ("y", True),
    ]


IDENTITY = b'{"model_name":"m","model_version":"1"'


@pytest.mark.parametrize("binary", [True, False])
def test_an_answer_is_that_of_its_own_shapes(binary: bool) -> None:
    """A plan keeps the JSON around the values; outputs of other shapes need another one."""
    request = parsed({"inputs": [tensor()], "parameters": {"binary_data_output": binary}})
    for columns in (3, 3, 2, 0, 3):
        y, z = np.full((1, columns), 1.5, "<f4"), np.full((1, 3), 2.5, "<f4")
        body, length = request.plan.answer(IDENTITY, [y, z])
        outputs = json.loads(body[:length])["outputs"]
        assert [one["shape"] for one in outputs] == [[1, columns], [1, 3]]
        if binary:
            assert body[length:] == y.tobytes() + z.tobytes()
            sizes = [one["parameters"]["binary_data_size"] for one in outputs]
            assert sizes == [4 * columns, 12]
        else:
            assert [one["data"] for one in outputs] == [[1.5] * columns, [2.5] * 3]


def test_an_answer_in_mixed_form() -> None:
    request = parsed(
        {
            "id": "é",
            "inputs": [tensor()],
            "outputs": [{"name": "z"}, {"name": "y", "parameters": {"binary_data": True}}],
        }
    )
    y, z = np.array([[1, 2, 3]], dtype="<f4"), np.array([[np.nan, 2.5, 0.1]], dtype="<f4")
    body, length = request.plan.answer(IDENTITY, [y, z])
    assert length is not None
    assert body[length:] == y.tobytes()
    assert json.loads(body[:length]) == {
        "model_name": "m",
        "model_version": "1",
        "id": "é",
        "outputs": [
            {"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [None, 2.5, 0.1]},
            {"name": "y", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
        ],
    }


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_infinity_needs_the_binary_form(datatype: str) -> None:
    """F7: null stood for it, which clients read as NaN."""
    sign = signature(datatype)
    request = parsed({"inputs": [tensor(datatype=datatype)]}, sign)
    values = np.array([[1, -np.inf, 0]], dtype=DATATYPES[datatype].dtype)
    with pytest.raises(InvalidInput, match=r"'y' is infinite.*binary_data: true"):
        request.plan.answer(IDENTITY, [values, values])


def test_bytes_that_are_no_text_need_the_binary_form() -> None:
    request = parsed({"inputs": [tensor(["a", "b", "c"], datatype="BYTES")]}, signature("BYTES"))
    values = np.array([[b"\xff", b"", b""]], dtype=object)
    with pytest.raises(InvalidInput, match="binary_data: true"):
        request.plan.answer(IDENTITY, [values, values])


@given(st.data())
def test_every_array_survives_both_forms(data: st.DataObject) -> None:
    datatype = DATATYPES[data.draw(st.sampled_from(sorted(set(DATATYPES) - {"BYTES", "BF16"})))]
    raw = data.draw(st.binary(min_size=6 * max(datatype.size, 1), max_size=6 * max(datatype.size, 1)))
    values = np.frombuffer(raw, dtype=datatype.dtype if datatype.kind != "bool" else np.uint8).reshape(2, 3)
    values = values.astype(bool) if datatype.kind == "bool" else values
    sign = signature(datatype.name)
    body, length = with_binary(values.nbytes, (2, 3), datatype.name, values.tobytes())
    request = parse(body, length, sign)
    assert array(request, 0).tobytes() == values.tobytes()
    if datatype.kind != "float" or np.isfinite(values).all():
        answer = json.loads(request.plan.answer(IDENTITY, [array(request)] * 2).body)
        again = parsed({"inputs": [tensor(answer["outputs"][0]["data"], (2, 3), datatype.name)]}, sign)
        np.testing.assert_array_equal(array(again), values)


def test_a_remembered_head_does_not_lift_the_limit_on_json() -> None:
    """A body that gzip unfolds to 60 MiB was parsed if what stood around its values was known."""
    plans = Plans(signature())
    plans.parse(FORMS[0] % b"[1,2,3]", None)
    with pytest.raises(TooLarge):
        plans.parse(FORMS[0] % (b"[1,2,3" + b" " * MAX_JSON_BYTES + b"]"), None)


class Spawning(Request):
    """A request with a gzip body, whose work runs when it is spawned."""

    def __init__(self, plain: bytes) -> None:
        head = RequestHead()
        head.content_encoding = b"gzip"
        self.body, self.head = gzip.compress(plain), head

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run(work)

    def respond(self, response: Response) -> None:
        raise AssertionError


def test_only_bodies_that_are_small_unpacked_are_unpacked_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 KiB of gzip held the event loop while they unfolded to 64 MiB."""
    limits: dict[bool, int] = {}

    def noted(body: bytes, encoding: str, limit: int) -> bytes:
        limits[threading.current_thread() is threading.main_thread()] = limit
        return unpack(body, encoding, limit)

    monkeypatch.setattr("backends.inference.unpack", noted)
    found: list[bytes] = []
    for size in (inference.OFFLOAD_BYTES, inference.OFFLOAD_BYTES + 1, 1 << 22):
        limits.clear()
        inference.unpacked(Spawning(b" " * size), 1 << 22, found.append)
        on_loop = {True: inference.OFFLOAD_BYTES}
        assert limits == (on_loop if size == inference.OFFLOAD_BYTES else on_loop | {False: 1 << 22})
        assert found.pop() == b" " * size
    with pytest.raises(TooLarge):
        inference.unpacked(Spawning(b" " * ((1 << 22) + 1)), 1 << 22, found.append)
