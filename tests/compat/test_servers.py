"""Servers as teams build them, behind a canary with two shadows: one set of assertions for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.compat.canary import Asked, Kind, check
from tests.support.processes import ModuleProcess


def ask_openai(url: str, *, stream: bool) -> Asked:
    messages: Any = [{"role": "user", "content": "hello"}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        create = client.chat.completions.create
        if stream:
            chunks = create(model="m", messages=messages, stream=True)
            return chunks.response.headers, "".join(c.choices[0].delta.content or "" for c in chunks)
        raw = client.chat.completions.with_raw_response.create(model="m", messages=messages)
        return raw.headers, raw.parse().choices[0].message.content or ""


def ask_sse(url: str) -> Asked:
    with httpx.stream("POST", f"{url}/sse", json={"text": "hello"}) as response:
        events = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
        return response.headers, "".join(event["token"]["text"] for event in events)


def ask_predict(url: str) -> Asked:
    response = httpx.post(f"{url}/predict", json={"x": [1, 2.5]})
    return response.headers, response.json()["label"]


CHAT = {
    "whole": Kind(lambda url: ask_openai(url, stream=False)),
    "stream": Kind(lambda url: ask_openai(url, stream=True)),
}
SERVERS: dict[tuple[str, ...], dict[str, Kind]] = {
    ("tests.compat.fastapi_app",): CHAT,
    ("tests.compat.llm",): {"sse": Kind(ask_sse, {"paths": ["token.text"]})},
    ("gunicorn", "--no-control-socket", "tests.compat.flask_app:app"): {
        "predict": Kind(ask_predict, {"ignore": ["meta.at"]})
    },
}


@pytest.mark.parametrize(("server", "kinds"), SERVERS.items(), ids=["fastapi", "starlette", "gunicorn-flask"])
def test_a_canary_with_two_shadows(server: tuple[str, ...], kinds: dict[str, Kind], tmp_path: Path) -> None:
    servers = [ModuleProcess(*server, says=text) for text in ("sound", "sound", "changed")]
    check(tmp_path, servers, kinds)
