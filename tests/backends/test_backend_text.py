"""The language model: continuous batching, OpenAI's API with its own SDK, Triton's generate extension."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends import train_text
from backends.errors import InvalidInput, Unavailable
from backends.registry import Registry
from backends.server import KINDS
from backends.text.engine import END_OF_TEXT, Engine, Event, sample
from backends.text.generation import Generation, Sampling, TextStream
from backends.text.served import TextServed
from tests.backends.repositories import write_model
from tests.support.processes import ModelServerProcess

PROMPT = 'The "if" statement is used for'


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    root = tmp_path_factory.mktemp("texts")
    trained = train_text.main(root, steps=25)
    assert all(one.bits_per_byte < 6 for one in trained), "25 steps learn the frequencies of bytes at least"
    with ModelServerProcess(root, "--allow-load") as server:
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


class Recorded(Generation):
    def __init__(self, prompt: bytes, **sampling: Any) -> None:
        super().__init__(prompt, Sampling(**sampling))
        self.text = ""
        self.reason = ""

    def piece(self, text: str) -> None:
        self.text += text

    def end(self, reason: str) -> None:
        self.reason = reason

    def error(self, error: Exception) -> None:
        self.reason = str(error)


class Spelling:
    """Each text spells out its prompt, then ends.

    A prompt with ``?`` is refused; ``!`` breaks the step before it, ``€`` is not a byte.
    """

    def __init__(self) -> None:
        self.slots: list[list[int]] = []
        self.widest = 0

    def enter(self) -> None: ...

    def close(self) -> None: ...

    def join(self, prompt: bytes, sampling: Sampling) -> int:
        if b"?" in prompt:
            raise InvalidInput("no questions")
        self.slots.append([*prompt, END_OF_TEXT])
        self.widest = max(self.widest, len(self.slots))
        return self.slots[-1].pop(0)

    def step(self, last: list[int]) -> list[int]:
        assert len(last) == len(self.slots)
        if any(slot[:1] == [ord("!")] for slot in self.slots):
            raise SystemExit(3)
        return [8364 if byte == 0xE2 else byte for byte in [slot.pop(0) for slot in self.slots]]

    def leave(self, kept: list[int]) -> None:
        self.slots = [self.slots[slot] for slot in kept]


async def run(generations: list[Recorded], slots: int) -> Spelling:
    def deliver(events: list[Event]) -> None:
        for generation, data, finished in events:
            generation.feed(data, finished)

    stepper = Spelling()
    engine = Engine("m version 1", stepper, slots, 100, deliver)
    for generation in generations:
        engine.submit(generation)
    for _ in range(2000):
        await asyncio.sleep(0.002)
        if all(one.cancelled for one in generations):
            break
    engine.close()
    await asyncio.wrap_future(engine.ended)
    return stepper


async def test_slots_are_shared_and_never_mixed_up() -> None:
    words = [bytes([65 + number]) * (1 + number * 7 % 23) for number in range(26)]
    generations = [Recorded(word, max_tokens=15) for word in words]
    stepper = await run(generations, 4)
    assert [one.text for one in generations] == [word.decode()[:15] for word in words]
    assert [one.reason for one in generations] == ["stop" if len(word) < 15 else "length" for word in words]
    assert stepper.widest == 4


async def test_a_step_that_fails_fails_its_texts_and_no_later_one() -> None:
    bad, good, later = Recorded(b"ab!"), Recorded(b"abcdefgh"), Recorded(b"later")
    await run([bad, good, later], 2)
    assert "SystemExit" in bad.reason
    assert "SystemExit" in good.reason
    assert (later.text, later.reason) == ("later", "stop")


async def test_a_prompt_that_the_model_refuses_fails_alone() -> None:
    good, bad, later = Recorded(b"abcdefgh"), Recorded(b"abc?"), Recorded(b"later")
    await run([good, bad, later], 2)
    assert [one.reason for one in (good, bad, later)] == ["stop", "no questions", "stop"]


async def test_a_byte_beyond_255_fails_its_step_and_no_later_text() -> None:
    bad, later = Recorded("ab€".encode()), Recorded(b"later")
    await run([bad, later], 1)
    assert "ValueError" in bad.reason
    assert (later.text, later.reason) == ("later", "stop")


async def test_clients_that_left_make_room_in_the_queue() -> None:
    begun, gate = threading.Event(), threading.Event()

    class Slow(Spelling):
        def join(self, prompt: bytes, sampling: Sampling) -> int:
            begun.set()
            gate.wait(30)
            return super().join(prompt, sampling)

    engine = Engine("m version 1", Slow(), 1, 2, lambda events: None)
    engine.submit(Recorded(b"running"))
    await asyncio.to_thread(begun.wait, 30)
    first, second = Recorded(b"first"), Recorded(b"second")
    engine.submit(first)
    engine.submit(second)
    with pytest.raises(Unavailable, match="2 requests are waiting"):
        engine.submit(Recorded(b"third"))
    first.cancelled = True
    engine.submit(Recorded(b"third"))
    assert len(engine) == 2
    gate.set()
    engine.close()
    for one in engine.everything():
        one.cancelled = True
    await asyncio.wait_for(asyncio.wrap_future(engine.ended), 30)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1e-40, 1e-38, 1e-6, 2.0])
def test_every_temperature_can_be_drawn_with(temperature: float) -> None:
    """A tiny one failed the step, and with it the texts of other clients."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(256, generator=generator) * 20
    drawn = sample(logits, Sampling(temperature=temperature), generator)
    assert 0 <= drawn < 256
    if temperature < 1e-5:
        assert drawn == int(logits.argmax())


FRAGILE = """
import torch

class Model:
    broken = False

    def state(self, n):
        assert not self.broken
        return torch.zeros(n, 1)

    def __call__(self, tokens, state):
        if tokens[0, 0] == 98 and tokens.shape[1] == 1:
            self.broken = True
            raise RuntimeError
        logits = torch.zeros(*tokens.shape, 256)
        logits[..., 98] = 1
        return logits, state
"""


async def test_a_text_model_whose_thread_ends_is_given_up_and_named(tmp_path: Path) -> None:
    text_input, text_output = {"text_input": ("BYTES", [1])}, {"text_output": ("BYTES", [1])}
    write_model(tmp_path, "fragile", FRAGILE, text_input, text_output, platform="pytorch_text")
    registry = Registry(tmp_path, "cpu", kinds=KINDS)
    await registry.load_all()
    served = registry.find("fragile")
    assert isinstance(served, TextServed)
    failing = Recorded(b"prompt", temperature=0)
    served.generate(failing)
    async with asyncio.timeout(30):
        while not served.fault:
            await asyncio.sleep(0.02)
    assert "can't start a text any more" in registry.faults[0]
    assert "RuntimeError" in failing.reason
    with pytest.raises(Unavailable):
        served.generate(Recorded(b"later"))
    await registry.close()


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
