"""Reading a JSON body for rules, and putting another model's name into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.request.json_body import NO_BODY, read, read_scalars, scalar_at, with_model, with_usage

texts = st.text(st.characters(categories=None), max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(texts | st.just("model"), values, max_size=5)


@given(document=fields, indent=st.sampled_from([None, 1]), plain=st.booleans())
def test_all_fields_are_read_and_the_model_alone_is_replaced(
    document: dict[str, Any], indent: int | None, plain: bool
) -> None:
    model = "longer than any text of the document"
    data = json.dumps(document, ensure_ascii=plain, indent=indent).encode("utf-8", "surrogatepass")
    body = read(data)
    assert body.fields == document == json.loads(data)
    assert body.models == ("model" in document)
    rewritten = with_model(data, body, model)
    assert json.loads(rewritten) == {**document, "model": model}
    before, _, after = rewritten.partition(json.dumps(model).encode())
    if "model" in document:
        assert data.startswith(before)
        assert data.endswith(after)


@given(st.binary(max_size=40) | values.map(lambda v: json.dumps(v).encode()), texts)
def test_what_is_no_object_has_no_fields_and_passes_as_it_came(data: bytes, model: str) -> None:
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        document = None
    body = read(data)
    if isinstance(document, dict):
        assert body.fields == document
    else:
        assert body == NO_BODY
        assert with_model(data, body, model) == data


@pytest.mark.parametrize(
    "data",
    [b'{"a": 1,}', b'{"a": 1} {}', b'{"a" 1}', b'{"a": }', b'{"a": 1', b'{"a": tru}', b"{1: 2}", b'{"\n": 1}',
     b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff{}"],
)  # fmt: skip
def test_what_is_not_json_is_no_object(data: bytes) -> None:
    assert read(data) == NO_BODY


def test_numbers_and_spaces_stay_as_they_were() -> None:
    data = b'{ "x" : 1.10, "model"\n: "old" , "big": 12345678901234567890.0 }'
    assert with_model(data, read(data), "new") == data.replace(b'"old"', b'"new"')


def test_a_name_written_with_escapes_is_the_name() -> None:
    data = b'{"mod\\u0065l": "old", "\\u00e9": "\xc3\xa9"}'
    body = read(data)
    assert body.fields == {"model": "old", "é": "é"}
    assert with_model(data, body, "new") == data.replace(b'"old"', b'"new"')


def test_a_model_named_twice_is_counted() -> None:
    assert read(b'{"model": "a", "x": {"model": 1}, "model": "b"}').models == 2


@pytest.mark.parametrize(
    ("data", "bare"),
    [
        (b'{"stream": true}', True),
        (b'\xef\xbb\xbf { "x": {}, "stream" : true }', True),
        (b'{"stream": true, "stream_options": null}', False),
        (b'{"stream": true, "stream_options": {"include_usage": false}}', False),
        (b'{"stream": false}', False),
        (b'{"stream": 1}', False),
        (b"{}", False),
        (b"[]", False),
    ],
)
def test_a_stream_that_says_nothing_of_usage_is_asked_for_it(data: bytes, bare: bool) -> None:
    body = read_scalars(data, [("model",)])
    assert body.bare_stream is bare
    if bare:
        asked = json.loads(with_usage(with_model(data, body, "n"), body))
        wanted = {"stream_options": {"include_usage": True}, "model": "n"}
        assert asked == {**json.loads(data), **wanted}


def test_another_process_hands_back_scalars_alone() -> None:
    data = b'{"a": {"b": "u", "c": [1]}, "model": "m", "list": [1]}'
    body = read_scalars(data, [("a", "b"), ("a", "c"), ("model",), ("list",), ("none", "x")])
    assert body.fields == {"a": {"b": "u"}, "model": "m"}
    assert with_model(data, body, "n") == data.replace(b'"m"', b'"n"')
    bare = b'{"list": [1]}'
    assert with_model(bare, read_scalars(bare, [("model",)]), "n") == b'{"model":"n","list": [1]}'


def test_only_scalars_are_found() -> None:
    document = {"a": {"b": 1, "c": None, "d": {}}, "e": True}
    assert scalar_at(document, ("a", "b")) == 1
    assert scalar_at(document, ("e",)) is True
    assert [scalar_at(document, keys) for keys in [("a", "c"), ("a", "d"), ("e", "f"), ("x",)]] == [None] * 4
