"""Long bodies of the control API: parsed in another process, and passed back in pieces."""

from __future__ import annotations

import json
from typing import Any

from gateway.control.json_reader import LOOP_BYTES, VALUES_PER_PIECE, JsonReader, _pieces


async def test_a_long_document_comes_back_as_it_was() -> None:
    long = [{"k": k, "of": [k, None]} for k in range(3_000)]
    documents: list[Any] = [
        {"items": long, "reason": "x", "others": long[:7], "none": [], "one": [1], "map": {"a": [1, 2]}},
        long,
        {str(k): k for k in range(3_000)},
        "x" * LOOP_BYTES,
    ]
    reader = JsonReader()
    try:
        for document in documents:
            body = json.dumps(document).encode()
            assert len(body) > LOOP_BYTES
            found = await reader.read(body)
            assert found == document
            assert not isinstance(document, dict) or list(found) == list(document)
    finally:
        reader.close()


def test_no_piece_of_a_list_is_large() -> None:
    document = {"items": [{"metric": "m", "value": k} for k in range(50_000)], "more": list(range(10))}
    first, *pieces = _pieces(document, 100_000 // VALUES_PER_PIECE)
    assert len(first[1]) < 100
    assert [key for key, _ in pieces] == ["items"] * 50 + ["more"] * 10
    assert max(len(data) for _, data in pieces) < 20_000
