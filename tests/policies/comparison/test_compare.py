"""Responses compared as what they are: each form, both encodings, and hostile bytes."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.comparison.bodies import Comparison, Response
from policies.comparison.compare import Agreement, compare

Json = Any


def js(value: Json, **headers: str) -> Response:
    return Response(json.dumps(value).encode(), "application/json", **headers)


def verdict(a: Response, b: Response, **how: Any) -> str:
    return compare(a, b, Comparison(**how)).verdict


# v2 tensors --------------------------------------------------------------------------------------------


def output(name: str, datatype: str, shape: list[int], data: Json) -> dict[str, Json]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def v2(*outputs: dict[str, Json]) -> Response:
    return js({"model_name": "m", "outputs": list(outputs)})


def binary(*outputs: tuple[str, str, list[int], bytes]) -> Response:
    described = [
        {"name": n, "datatype": t, "shape": s, "parameters": {"binary_data_size": len(raw)}}
        for n, t, s, raw in outputs
    ]
    head = json.dumps({"model_version": "2", "outputs": described}).encode()
    body = head + b"".join(raw for *_, raw in outputs)
    return Response(body, "application/octet-stream", str(len(head)))


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


FORMS = [
    ("BOOL", [True, False], np.asarray([True, False]).tobytes()),
    ("INT8", [-1, 7], np.asarray([-1, 7], "<i1").tobytes()),
    ("UINT64", [2**64 - 1, 0], np.asarray([2**64 - 1, 0], "<u8").tobytes()),
    ("INT64", [2**53 + 1, 0], np.asarray([2**53 + 1, 0], "<i8").tobytes()),
    ("FP16", [0.1, 2], np.asarray([0.1, 2], "<f2").tobytes()),
    ("BF16", [0.1, 2], struct.pack("<HH", 0x3DCD, 0x4000)),
    ("FP32", [0.1, 1e-8], np.asarray([0.1, 1e-8], "<f4").tobytes()),
    ("FP64", [0.1, None], np.asarray([0.1, np.nan], "<f8").tobytes()),
    ("BYTES", ["äh", ""], strings("äh".encode(), b"")),
]


@pytest.mark.parametrize(("datatype", "data", "raw"), FORMS, ids=[form[0] for form in FORMS])
def test_json_and_binary_tensors_are_decoded_alike(datatype: str, data: Json, raw: bytes) -> None:
    flat = v2(output("y", datatype, [2, 1], data))
    nested = v2(output("y", datatype, [2, 1], [[x] for x in data]))
    packed = binary(("y", datatype, [2, 1], raw))
    for a in (flat, nested, packed):
        for b in (flat, nested, packed):
            assert compare(a, b, Comparison(tolerance=0)) == Agreement(
                "agrees", "v2", 0.0 if datatype[0] in "BF" and datatype[1] in "FP" else None
            )


def test_labels_are_exact_and_scores_go_by_their_largest() -> None:
    first = v2(output("label", "INT64", [1], [3]), output("scores", "FP32", [1, 3], [0.1, 0.2, 0.7]))
    close = v2(output("label", "INT64", [1], [3]), output("scores", "FP32", [1, 3], [0.3, 0.2, 0.5]))
    other = v2(output("label", "INT64", [1], [0]), output("scores", "FP32", [1, 3], [0.6, 0.2, 0.2]))
    same = compare(first, close)
    assert same.verdict == "agrees"
    assert same.difference == pytest.approx(0.2)
    differs = compare(first, other)
    assert differs.agrees is False
    assert json.loads(differs.detail) == {
        "differences": 2,
        "first": [
            {"where": "label[0]", "primary": "3", "shadow": "0"},
            {"where": "argmax of scores[0]", "primary": "2", "shadow": "0"},
        ],
    }
    assert verdict(first, close, argmax=()) == "differs"
    assert verdict(first, other, paths=("scores",), argmax=(), tolerance=0.6) == "agrees"


def test_each_row_of_scores_is_ranked() -> None:
    a = v2(output("logits", "FP32", [2, 2], [[1, 2], [5, 4]]))
    b = v2(output("logits", "FP32", [2, 2], [[1, 2], [3, 4]]))
    assert "argmax of logits[1]" in compare(a, b).detail


@pytest.mark.parametrize("shape", [[], [1], [3, 1]], ids=str)
def test_a_single_score_is_a_number_and_no_ranking(shape: list[int]) -> None:
    """The place of the largest of one number is always the same: such scores agreed whatever they were."""
    count = shape[0] if shape else 1
    a = v2({"name": "score", "datatype": "FP32", "shape": shape, "data": [0.93] * count})
    b = v2({"name": "score", "datatype": "FP32", "shape": shape, "data": [0.07] * count})
    assert verdict(a, b) == "differs"
    assert verdict(a, b, tolerance=1.0) == "agrees"


@pytest.mark.parametrize(("tolerance", "expected"), [(1e-4, "agrees"), (1e-6, "differs")])
def test_floats_agree_within_the_tolerance(tolerance: float, expected: str) -> None:
    a, b = (v2(output("y", "FP64", [1], [x])) for x in (1000.0, 1000.05))
    result = compare(a, b, Comparison(tolerance=tolerance))
    assert result.verdict == expected
    assert result.difference == pytest.approx(0.05)


@pytest.mark.parametrize(
    "other",
    [
        v2(output("y", "INT64", [2], [1, 2]), output("z", "INT64", [1], [1])),
        v2(output("x", "INT64", [2], [1, 2])),
        v2(output("y", "INT64", [2, 1], [1, 2])),
        v2(output("y", "FP32", [2], [1, 2])),
        v2(output("y", "INT64", [2], [1, 3])),
        js({"error": "out of memory"}),
        Response(b"<html>", "text/html"),
        Response(b"", ""),
    ],
)
def test_other_tensors_differ(other: Response) -> None:
    result = compare(v2(output("y", "INT64", [2], [1, 2])), other)
    assert (result.verdict, result.form) == ("differs", "v2")
    assert len(result.detail) < 1_000


@pytest.mark.parametrize(
    "broken",
    [
        v2(output("y", "INT64", [3], [1, 2])),
        v2(output("y", "INT64", [-1], [1])),
        v2(output("y", "INT64", [1], [1.5])),
        v2(output("y", "INT64", [1], [2**63])),
        v2(output("y", "INT64", [1], [True])),
        v2(output("y", "FP32", [1], ["1"])),
        v2(output("y", "BYTES", [1], [1])),
        v2(output("y", "FP8", [1], [1])),
        v2(output("y", "INT64", [2], [1, [2]])),
        v2({"name": "y", "datatype": "INT64"}),
        binary(("y", "FP32", [2], b"\0" * 7)),
        binary(("y", "BYTES", [1], b"\xff\xff\xff\xff")),
        binary(("y", "BYTES", [2], strings(b"a"))),
        Response(b'{"outputs": []}rest', "", "15"),
        Response(b'{"outputs": []}', "", "16"),
        Response(b'{"outputs": []}', "", "-1"),
        Response(b'{"outputs": []}', "", "²"),
        Response(
            b'{"outputs": [{"name": "y", "datatype": "INT8", "shape": [1], "parameters":'
            b' {"binary_data_size": 9}}]}x',
            "",
            "91",
        ),
        Response(b"[" * 100_000, "application/json"),
        Response(b"{", "application/json"),
        js({}, content_encoding="br"),
        Response(b"not gzip", "application/json", content_encoding="gzip"),
    ],
)
def test_a_primary_that_cannot_be_read_is_not_comparable(broken: Response) -> None:
    result = compare(broken, v2(output("y", "INT64", [1], [1])))
    assert (result.verdict, result.agrees) == ("not_comparable", None)
    assert 0 < len(result.detail) < 300
    assert compare(broken, broken).agrees is True


# Predictions, OpenAI, JSON, bytes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"predictions": [1, 2]}, {"predictions": [1, 2]}, "agrees"),
        ({"predictions": [1, 2]}, {"predictions": [1, 3]}, "differs"),
        ({"predictions": [1.0, 2.0]}, {"predictions": [1.00001, 2]}, "agrees"),
        ({"predictions": [1], "time": 3}, {"predictions": [1], "time": 4}, "agrees"),
        ({"predictions": ["a"]}, {"predictions": ["b"]}, "differs"),
        ({"predictions": [True]}, {"predictions": [1]}, "differs"),
        ({"predictions": [1]}, [1], "agrees"),
        ({"outputs": {"y": [1]}}, {"outputs": {"y": [1]}}, "agrees"),
        ({"predictions": [{"probs": [0.1, 0.9]}]}, {"predictions": [{"probs": [0.4, 0.6]}]}, "agrees"),
        ({"predictions": [{"probs": [0.1, 0.9]}]}, {"predictions": [{"probs": [0.6, 0.4]}]}, "differs"),
        ({"predictions": [1]}, {"error": "x"}, "differs"),
    ],
)
def test_predictions(a: Json, b: Json, expected: str) -> None:
    result = compare(js(a), js(b))
    assert (result.verdict, result.form) == (expected, "predictions")


def test_declared_scores_rank_each_row() -> None:
    a, b = js({"predictions": [[1.0, 2.0], [4.0, 3.0]]}), js({"predictions": [[1.5, 2.5], [9.0, 3.0]]})
    assert verdict(a, b) == "differs"
    assert verdict(a, b, argmax=("predictions",)) == "agrees"


def chat(content: Json = "hi", finish: str = "stop", calls: Json = None, **extra: Json) -> dict[str, Json]:
    message = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
    return {
        "id": "x",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    } | extra


def call(name: str, arguments: str, ident: str = "c1") -> dict[str, Json]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        (chat(), chat(id="y", model="n", usage={"total_tokens": 3}), ""),
        (chat("hi"), chat("hello"), "choices.0.message.content"),
        (chat(), chat(finish="length"), "choices.0.finish_reason"),
        (
            chat(None, calls=[call("f", '{"a":1,"b":2}')]),
            chat("", calls=[call("f", '{"b": 2, "a": 1}', "z")]),
            "",
        ),
        (
            chat(None, calls=[call("f", '{"a":1}')]),
            chat(None, calls=[call("f", '{"a":2}')]),
            "choices.0.message.tool_calls.0.function.arguments.a",
        ),
        (
            chat(None, calls=[call("f", "{}")]),
            chat(None, calls=[call("g", "{}")]),
            "choices.0.message.tool_calls.0.function.name",
        ),
        (chat(None, calls=[call("f", "{}")]), chat("no"), "choices.0.message.tool_calls"),
        ({"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, "choices.0.text"),
        (
            {"choices": [{"message": {"images": [{"image_url": {"url": "data:a"}}]}}]},
            {"choices": [{"message": {"images": [{"image_url": {"url": "data:b"}}]}}]},
            "choices.0.message.images.0.image_url.url",
        ),
        (chat(), {"choices": []}, "body"),
        (chat(), {"error": {"message": "no"}}, "body"),
    ],
)
def test_openai(a: Json, b: Json, where: str) -> None:
    result = compare(js(a), js(b))
    assert result.form == "openai"
    assert result.agrees is (where == "")
    if where:
        assert json.loads(result.detail)["first"][0]["where"] == where


def sse(*parts: Json, newline: str = "\n") -> Response:
    lines = [f"data: {part if isinstance(part, str) else json.dumps(part)}" for part in parts]
    return Response((newline * 2).join([*lines, ""]).encode(), "text/event-stream; charset=utf-8")


def chunk(finish: str | None = None, **delta: Json) -> dict[str, Json]:
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_stream_is_put_together_before_it_is_compared(newline: str) -> None:
    texts = (chunk(content=text) for text in "hi")
    parts = [chunk(role="assistant", content=""), *texts, chunk("stop"), "[DONE]"]
    stream = sse(*parts, newline=newline)
    assert compare(stream, js(chat("hi"))).agrees is True
    assert compare(js(chat("hi")), stream).agrees is True
    assert compare(stream, js(chat("ho"))).agrees is False
    assert compare(stream, sse(*parts[:3])).agrees is False, "it broke off before its finish reason"


def test_streamed_tool_calls() -> None:
    def part(index: int, **function: str) -> dict[str, Json]:
        return chunk(tool_calls=[{"index": index, "function": function}])

    stream = sse(
        part(0, name="f", arguments=""), part(0, arguments='{"a"'), part(0, arguments=":1}"), chunk("stop")
    )
    assert compare(stream, js(chat(None, calls=[call("f", '{"a": 1}')]))).agrees is True


def test_other_streams_are_compared_event_by_event() -> None:
    a, b = sse({"type": "x", "n": 1}, "plain"), sse({"type": "x", "n": 2}, "plain")
    assert compare(a, a).form == "stream"
    assert compare(a, a).agrees is True
    assert json.loads(compare(a, b).detail)["first"][0]["where"] == "0.n"


def test_declared_paths_are_all_that_counts() -> None:
    a, b = (
        js({"result": {"label": "x", "items": [1, 2]}, "ms": 3}),
        js({"result": {"label": "x", "items": [1, 9]}}),
    )
    assert verdict(a, b, paths=("result.label",)) == "agrees"
    assert verdict(a, b, paths=("result.items.1",)) == "differs"
    assert verdict(a, b, paths=("ms",)) == "differs"
    result = compare(a, b, Comparison(form="json", paths=("nowhere", "result.items.7")))
    assert (result.verdict, result.detail) == (
        "not_comparable",
        "none of the declared paths is in either response",
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (b'{"a": 1, "b": [null]}', b'{"b":[null],"a":1}', "agrees"),
        (b'{"a": 1}', b'{"a": 1.00001}', "agrees"),
        (b'{"a": 1}', b'{"a": "1"}', "differs"),
        (b'{"a": null}', b"{}", "differs"),
        (b"[1, 2]", b"[1, 2, 3]", "differs"),
        (b"[10000000000000000000001]", b"[10000000000000000000002]", "differs"),
        (b"[1e999]", b"[1e999]", "agrees"),
        (b"[1e999, 2.5]", b"[1, 2.5]", "differs"),
        (b"[" + b"9" * 4000 + b", 1.5]", b"[" + b"9" * 4000 + b", 1.5]", "agrees"),
    ],
)
def test_canonical_json(a: bytes, b: bytes, expected: str) -> None:
    assert verdict(Response(a, "application/problem+json"), Response(b)) == expected


def test_bytes_are_compared_as_bytes() -> None:
    assert compare(Response(b"\x89PNG", "image/png"), Response(b"\x89PNG", "image/png")).agrees is True
    differs = compare(Response(b"a" * 10_000, "text/plain"), Response(b"\xff" * 10_000, "text/plain"))
    assert differs.agrees is False
    assert len(differs.detail) <= 1_000
    assert verdict(js({"a": 1}), js({"a": 1.0}), form="bytes") == "differs"


def test_compressed_answers() -> None:
    plain = json.dumps({"a": [1, 2]}).encode()
    for coding, body in [("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))]:
        assert compare(
            Response(body, "application/json", "", coding), Response(plain, "application/json")
        ).agrees
    bomb = Response(gzip.compress(b"[" + b"1," * 20_000_000 + b"1]"), "application/json", "", "gzip")
    assert "larger than" in compare(bomb, js([1])).detail


@pytest.mark.slow
def test_what_takes_too_long_is_not_compared() -> None:
    many = js([{"a": None}] * 200_001)
    assert "more than" in compare(many, many).detail
    numbers = js(list(range(500_000)))
    assert compare(numbers, numbers).agrees is True


# Hostile bytes -------------------------------------------------------------------------------------------

TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            "response", "message", "message_start", "content_block_delta", "message_delta", "text_delta",
            "response.completed", "response.output_item.added", "response.output_item.done",
            "response.output_text.delta", "response.function_call_arguments.delta",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "outputs",
                    "name",
                    "datatype",
                    "shape",
                    "data",
                    "parameters",
                    "binary_data_size",
                    "choices",
                    "index",
                    "message",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "arguments",
                    "predictions",
                    "scores",
                    "error",
                    "output",
                    "type",
                    "object",
                    "item",
                    "output_index",
                    "content_index",
                    "response",
                    "content_block",
                    "text",
                    "partial_json",
                    "done",
                    "meta",
                    "embedding",
                    "embeddings",
                    "generated_text",
                    "text_output",
                    "token",
                    "details",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)  # fmt: skip
TENSORS = st.fixed_dictionaries(
    {"name": st.sampled_from(["y", "scores"]), "datatype": st.sampled_from([*(f[0] for f in FORMS), "FP8"])},
    optional={
        "shape": st.lists(st.integers(-1, 4), max_size=3) | TREES,
        "data": st.lists(st.integers(-2, 300) | st.floats() | st.booleans() | st.text(max_size=2), max_size=6)
        | TREES,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 12)}) | TREES,
    },
)
DOCUMENTS = TREES | st.fixed_dictionaries({"outputs": st.lists(TENSORS, max_size=3)})
BODIES = st.one_of(
    st.binary(max_size=60),
    DOCUMENTS.map(lambda tree: json.dumps(tree).encode()),
    st.tuples(DOCUMENTS, st.binary(max_size=12)).map(lambda t: json.dumps(t[0]).encode() + t[1]),
    st.lists(DOCUMENTS, max_size=4).map(
        lambda trees: b"".join(b"data: %s\n\n" % json.dumps(t).encode() for t in trees)
    ),
    st.lists(DOCUMENTS, max_size=4).map(lambda trees: "\n".join(map(json.dumps, trees)).encode()),
    st.text("daevnti:rpg[DONE]{} \n\r", max_size=60).map(str.encode),
)
TYPES = st.sampled_from(
    ["", "application/json", "text/event-stream", "application/x-ndjson", "text/plain", "é;"]
)
HEADERS = st.sampled_from(["", "", "", "0", "12", "x", "99999999999999999999"])
ANSWERS = st.builds(Response, BODIES, TYPES, HEADERS, st.sampled_from(["", "", "", "gzip", "zstd"]))
SETTINGS = st.builds(
    Comparison,
    st.sampled_from(
        [
            "auto", "auto", "v2", "predictions", "openai", "anthropic", "ollama", "seldon", "generate",
            "json", "bytes",
        ]
    ),
    st.sampled_from([(), (), ("y",), ("outputs.0.name", ""), ("*",), ("content.*.text", "*.0")]),
    st.sampled_from([None, (), ("y",)]),
    st.floats(0, 1),
    st.sampled_from([(), ("y",), ("choices.*.index", "*.*"), ("*",), ("0",)]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(ANSWERS, ANSWERS, SETTINGS)
@example(Response(b"[" * 990 + b"]" * 990), Response(b"[" * 990 + b"]" * 990), Comparison())
@example(
    js({"choices": [{"message": {"content": "x"}}]}),
    Response(b'{"choices":[{"message":{"content":' + b"[" * 900 + b"]" * 900 + b"}}]}"),
    Comparison(),
)
def test_no_bytes_make_it_raise(a: Response, b: Response, how: Comparison) -> None:
    result = compare(a, b, how)
    assert result.verdict in ("agrees", "differs", "not_comparable")
    assert len(result.detail) <= 1_000
    assert (result.detail == "") is (result.verdict == "agrees")
    assert result.difference is None or result.difference >= 0
    if result.verdict == "differs":
        assert json.loads(result.detail)["differences"] >= 1


@settings(max_examples=80, deadline=None)
@given(ANSWERS, SETTINGS)
def test_every_answer_that_can_be_compared_agrees_with_itself(a: Response, how: Comparison) -> None:
    same = Response(a.body, a.content_type, a.inference_header, a.content_encoding)
    assert compare(a, same, how).agrees is not False


@settings(max_examples=80, deadline=None)
@given(ANSWERS, ANSWERS)
def test_agreement_has_no_direction_where_both_can_be_read(a: Response, b: Response) -> None:
    there, back = compare(a, b), compare(b, a)
    if there.form == back.form and None not in (there.agrees, back.agrees):
        assert there.agrees is back.agrees
        assert there.difference == back.difference
