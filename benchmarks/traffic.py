"""The bytes that every peer is sent and every backend answers with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

KEY = "tk_bench_0123456789abcdef0123456789abcdef"
"""The API key that clients send; the peers that know no keys pass it on like any field."""
MODEL = "/v2/models/digits"
INFER = f"{MODEL}/infer"
CHAT = "/v1/chat/completions"
UNITS = 1000
"""Users that the load comes from, so that a sticky assignment is really computed."""

_IMAGE = [float((7 * place * place + 3 * place) % 17) for place in range(64)]
_SCORES = [-9.4818, -11.0382, -4.9017, 0.1533, -13.7741, -6.0924, -16.3305, 8.7269, -3.5508, -1.2846]

INFER_BODY = json.dumps(
    {
        "id": "c0ffee00-0000-4000-8000-000000000000",
        "inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": _IMAGE}],
    }
).encode()
INFER_ANSWER = json.dumps(
    {
        "model_name": "digits",
        "model_version": "1",
        "id": "c0ffee00-0000-4000-8000-000000000000",
        "outputs": [
            {"name": "scores", "shape": [1, 10], "datatype": "FP32", "data": _SCORES},
            {"name": "label", "shape": [1], "datatype": "INT64", "data": [7]},
        ],
    },
    separators=(",", ":"),
)
ANOTHER_ANSWER = INFER_ANSWER.replace("c0ffee00", "decade00").replace("8.7269", "8.72691")
"""The same by another server: an id of its own, and the last digit of a float."""
CHAT_BODY = json.dumps(
    {
        "model": "digits-chat",
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "You classify handwritten digits."},
            {"role": "user", "content": "Which digit is this? " + " ".join(f"{p:g}" for p in _IMAGE)},
        ],
    }
).encode()
CHAT_ANSWER = json.dumps(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "digits-chat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "It is a seven."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 160, "completion_tokens": 5, "total_tokens": 165},
    },
    separators=(",", ":"),
)


def request(path: str = INFER, body: bytes = INFER_BODY, number: int = 0, method: str = "POST") -> bytes:
    """One whole HTTP/1.1 request as a Python client behind a tracing sidecar would send it: ten fields."""
    unit = number % UNITS
    digest = hashlib.md5(b"%d" % unit, usedforsecurity=False).hexdigest()
    head = (
        f"{method} {path} HTTP/1.1\r\n"
        "Host: models.internal:8080\r\n"
        "User-Agent: python-httpx/0.28.1\r\n"
        "Accept: */*\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        f"Authorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\n"
        f"X-User-Id: user-{unit:06d}\r\n"
        f"X-Request-Id: {digest}\r\n"
        f"Traceparent: 00-{digest}-{digest[:16]}-00\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


def untraced(request: bytes) -> bytes:
    """The same without its ``traceparent``: whether it is traced is then the gateway's choice."""
    return re.sub(rb"Traceparent: [^\r]*\r\n", b"", request)


def requests(path: str = INFER, body: bytes = INFER_BODY, count: int = UNITS) -> list[bytes]:
    """One request for each of ``count`` units."""
    return [request(path, body, number) for number in range(count)]


def write_requests(target: Path, items: Iterable[bytes]) -> None:
    """A file of requests, each behind its length as a line of digits: what `load/wrk.lua` reads."""
    with target.open("wb") as out:
        for item in items:
            out.write(b"%d\n" % len(item))
            out.write(item)
