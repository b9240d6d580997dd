"""Responses of broken models and servers: what is not there, not whole or not a number agrees with nothing."""

from __future__ import annotations

import gzip
import json

import pytest

from policies.comparison.bodies import Json, Response
from tests.policies.comparison.test_compare import js, output, v2, verdict


def test_scores_of_nan_do_not_agree_with_a_class_0_that_is_right() -> None:
    """`argmax` gives the place of the first NaN: a model gone to NaN agreed with every primary of class 0."""
    good, broken = (v2(output("scores", "FP32", [1, 2], data)) for data in ([0.9, 0.1], [None, None]))
    assert verdict(good, broken) == verdict(broken, good) == "differs"
    assert verdict(broken, broken) == "agrees"
    rows = [js({"predictions": [{"scores": [x, 0.1]}], "id": x}) for x in (0.9, float("nan"))]
    assert verdict(*rows) == "differs"


@pytest.mark.parametrize("choices", [None, 1, "text", True])
def test_embeddings_with_a_member_choices(choices: Json) -> None:
    document = {"data": [{"embedding": [1.0]}], "choices": choices}
    assert verdict(js(document), js({**document, "model": "another"})) == "agrees"


@pytest.mark.parametrize("response", [{"object": "x"}, {"object": "x", "output": []}, {"choices": [1]}])
def test_the_last_event_of_a_stream_is_another_object(response: Json) -> None:
    event = f"data: {json.dumps({'type': 'response.completed', 'response': response})}\n\n".encode()
    first, second = (Response(event + end, "text/event-stream") for end in (b"", b"\n"))
    assert verdict(first, second) in ("agrees", "not_comparable")


def test_what_follows_the_first_stream_of_gzip_is_not_left_out_silently() -> None:
    first, second = (
        Response(gzip.compress(b"one ") + gzip.compress(rest), "text/plain", content_encoding="gzip")
        for rest in (b"two", b"three")
    )
    assert verdict(first, second) == "not_comparable"
    assert verdict(Response(b"one", "text/plain"), second) == "not_comparable"


def test_a_shadow_with_a_broken_coding_differs_and_one_with_another_is_not_compared() -> None:
    good = js({"x": 1})
    assert verdict(good, Response(b"{}", "application/json", content_encoding="gzip")) == "differs"
    assert verdict(good, Response(b"{}", "application/json", content_encoding="br")) == "not_comparable"
