"""The language model: continuous batching, OpenAI's API with its own SDK, Triton's generate extension."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.text.generation import TextStream
from tests.backends.repositories import write_model
from tests.support.models import reference_texts
from tests.support.processes import ModelServerProcess

PROMPT = 'The "if" statement is used for'


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "API servers"])
def texts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServerProcess]:
    models = reference_texts(tmp_path_factory)
    with ModelServerProcess(models, "--allow-load", "--api-server-count", request.param) as server:
        server.wait_ready()
        yield server
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log


@pytest.fixture
def client(texts: ModelServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{texts.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_models_are_listed_with_and_without_versions(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["bytes-lm", "bytes-lm-1", "bytes-lm-2"]
    assert client.models.retrieve("bytes-lm-1").owned_by == "turnout"
    with pytest.raises(openai.NotFoundError, match="there are bytes-lm"):
        client.models.retrieve("bytes-lm-9")


def test_a_chat_whole_and_streamed_is_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "bytes-lm-2",
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": PROMPT}],
        "max_tokens": 40,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    text = whole.choices[0].message.content
    assert text
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(PROMPT) + 3, 40)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_and_seeds(client: openai.OpenAI) -> None:
    def complete(seed: int) -> str:
        answer = client.completions.create(model="bytes-lm", prompt=PROMPT, max_tokens=30, seed=seed)
        return str(answer.choices[0].text)

    assert complete(1) == complete(1)
    assert complete(1) != complete(2)
    streamed = client.completions.create(model="bytes-lm", prompt=PROMPT, max_tokens=30, seed=1, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == complete(1)


def test_stop_sequences_end_the_text_before_them(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "bytes-lm-1", "prompt": PROMPT, "max_tokens": 200, "seed": 3}
    text = client.completions.create(**asked).choices[0].text
    stop = text[10:13]
    for stream in (False, True):
        answer: Any = client.completions.create(**asked, stop=[stop, "\u2603"], stream=stream)
        parts = list(answer) if stream else [answer]
        assert "".join(part.choices[0].text for part in parts) == text[: text.index(stop)]
        assert parts[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "absent"}, "no language model 'absent'"),
        ({"max_tokens": 0}, "max_tokens is not a whole number"),
        ({"temperature": "hot"}, "temperature is not a number"),
        ({"n": 2}, "one choice"),
        ({"stop": [""]}, "stop is not a string"),
        ({"seed": 1.5}, "seed is not a whole number"),
        ({"stream": "yes"}, "stream is not a boolean"),
        ({"stream_options": 3}, "stream_options is not"),
        ({"logprobs": True}, "logprobs is not served"),
        ({"messages": []}, "messages is not a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "is not text"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, "the prompt has more than 8192 bytes"),
    ],
)
def test_what_is_wrong_is_said_in_openais_form(
    texts: ModelServerProcess, change: dict[str, Any], message: str
) -> None:
    asked = {"model": "bytes-lm", "messages": [{"role": "user", "content": "x"}], **change}
    answer = httpx.post(f"{texts.url}/v1/chat/completions", json=asked)
    assert answer.status_code == (404 if "model" in change else 400)
    assert message in answer.json()["error"]["message"]


def test_generate_as_triton_has_it(texts: ModelServerProcess) -> None:
    asked = {"text_input": PROMPT, "id": "q", "parameters": {"max_tokens": 12, "temperature": 0}}
    url = f"{texts.url}/v2/models/bytes-lm"
    whole = httpx.post(f"{url}/versions/1/generate", json=asked).json()
    assert (whole["model_name"], whole["model_version"], whole["id"]) == ("bytes-lm", "1", "q")
    streamed = httpx.post(f"{url}/versions/1/generate_stream", json=asked)
    assert streamed.headers["content-type"] == "text/event-stream"
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line]
    assert "".join(event["text_output"] for event in events) == whole["text_output"]
    refused = httpx.post(f"{url}/generate", json={"parameters": {}})
    assert (refused.status_code, refused.json()) == (400, {"error": "text_input is not a string; send one"})
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]}
    assert "generates text" in httpx.post(f"{url}/infer", json={"inputs": [tensor]}).json()["error"]


async def test_texts_run_together_each_with_its_own(texts: ModelServerProcess) -> None:
    """Sixteen slots, forty texts: each is what it is alone, and they share steps."""
    sdk = openai.AsyncOpenAI(base_url=f"{texts.url}/v1", api_key="none")
    asked: dict[str, Any] = {"model": "bytes-lm-2", "max_tokens": 60, "temperature": 0}

    async def complete(number: int) -> str:
        answer = await sdk.completions.create(prompt=f"Topic {number}: ", **asked)
        return str(answer.choices[0].text)

    async def steps() -> int:
        async with httpx.AsyncClient() as client:
            stats = await client.get(f"{texts.url}/v2/models/bytes-lm/versions/2/stats")
        return int(stats.json()["model_stats"][0]["execution_count"])

    alone = [await complete(number) for number in range(8)]
    before = await steps()
    together = await asyncio.gather(*(complete(number) for number in range(40)))
    assert await steps() - before < 40 * 60 / 4
    # Sums in batches of another size may round otherwise, and one byte changes all that follow.
    assert sum(one == two for one, two in zip(alone, together, strict=False)) >= 6
    await sdk.close()


async def test_a_client_that_leaves_frees_its_slot(texts: ModelServerProcess) -> None:
    body = {"model": "bytes-lm-2", "prompt": "x", "max_tokens": 4096, "stream": True, "temperature": 1}
    async with httpx.AsyncClient(base_url=texts.url, timeout=60) as client:
        for _ in range(40):
            async with client.stream("POST", "/v1/completions", json=body) as answer:
                async for _ in answer.aiter_lines():
                    break
        start = time.monotonic()
        short = await client.post(
            "/v1/completions", json={"model": "bytes-lm-2", "prompt": "x", "max_tokens": 5}
        )
        assert short.json()["usage"]["completion_tokens"] <= 5
        assert time.monotonic() - start < 20


@given(st.text(max_size=40), st.lists(st.text("ab€", min_size=1, max_size=3), max_size=3))
def test_a_streamed_text_is_the_whole_one_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    stream, got = TextStream(tuple(stops)), ""
    data = text.encode()
    for place in range(len(data)):
        got += stream.feed(data[place : place + 1])
        if stream.stopped:
            break
    else:
        got += stream.feed(b"", last=True)
    seen = text[: min((text.index(stop) + len(stop) for stop in stops if stop in text), default=len(text))]
    assert got == seen[: min((seen.index(stop) for stop in stops if stop in seen), default=len(seen))]


def test_a_text_model_that_is_wrong_is_named(tmp_path: Path) -> None:
    spec = {"text_input": ("TYPE_STRING", [1])}, {"text_output": ("TYPE_STRING", [1])}
    code = "class Model:\n    def state(self, count): raise OSError('gone')\n    def __call__(self, **_): ..."
    write_model(tmp_path, "broken", code, *spec, platform="pytorch_text")
    write_model(tmp_path, "named", code, {"x": ("FP32", [1])}, {"y": ("FP32", [1])}, platform="pytorch_text")
    with ModelServerProcess(tmp_path) as server:
        while "still being loaded" in httpx.get(f"{server.url}/v2/health/ready").text:
            time.sleep(0.05)
        rows = {row["name"]: row["reason"] for row in httpx.post(f"{server.url}/v2/repository/index").json()}
    assert "OSError: gone" in rows["broken"]
    assert "has input text_input and output text_output" in rows["named"]
