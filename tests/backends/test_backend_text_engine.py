"""The engine of texts: shared slots, faults of single texts and of whole steps, the drawing of bytes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.errors import InvalidInput, ServerError, Unavailable
from backends.registry import Registry
from backends.server import KINDS
from backends.text.engine import END_OF_TEXT, NO_BYTE, Engine, Event, sample
from backends.text.generation import Generation, Sampling
from backends.text.served import TextServed
from tests.backends.repositories import write_model


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

    A prompt with ``?`` is refused; ``!`` breaks the step before it, ``€`` is not a byte, ``~`` can't be drawn.
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
        return self.next_byte(self.slots[-1])

    def step(self, last: list[int]) -> list[int]:
        assert len(last) == len(self.slots)
        if any(slot[:1] == [ord("!")] for slot in self.slots):
            raise SystemExit(3)
        return [self.next_byte(slot) for slot in self.slots]

    def next_byte(self, slot: list[int]) -> int:
        byte = slot.pop(0)
        return {0xE2: 8364, ord("~"): NO_BYTE}.get(byte, byte)

    def leave(self, kept: list[int]) -> None:
        self.slots = [self.slots[slot] for slot in kept]


async def run(generations: list[Recorded], slots: int) -> Spelling:
    def deliver(events: list[Event]) -> None:
        for generation, data, finished in events:
            if isinstance(data, ServerError):
                generation.fail(data)
            else:
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


@pytest.mark.parametrize("text", [b"ab~c", b"~"])
async def test_a_text_that_no_byte_can_be_drawn_for_fails_alone(text: bytes) -> None:
    good, bad, later = Recorded(b"abcdefgh"), Recorded(text), Recorded(b"later")
    await run([good, bad, later], 2)
    assert (good.text, later.text, good.reason, later.reason) == ("abcdefgh", "later", "stop", "stop")
    assert bad.reason == "m version 1 gave logits that are NaN or infinite"
    assert bad.text == text.partition(b"~")[0].decode()


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
    await asyncio.wait_for(asyncio.wrap_future(engine.ended), 60)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1e-40, 1e-38, 1e-6, 2.0])
def test_every_temperature_can_be_drawn_with(temperature: float) -> None:
    """A tiny one failed the step, and with it the texts of other clients."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(256, generator=generator) * 20
    drawn = sample(logits, Sampling(temperature=temperature), generator)
    assert 0 <= drawn < 256
    if temperature < 1e-5:
        assert drawn == int(logits.argmax())


@pytest.mark.parametrize("temperature", [0.0, 1e-5, 1.0])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_what_can_be_drawn_from(temperature: float, top_p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    for strange in (torch.nan, torch.inf):
        assert sample(torch.tensor([0.0] * 255 + [strange]), sampling, generator) == NO_BYTE
    assert sample(torch.full((256,), -torch.inf), sampling, generator) == NO_BYTE
    masked = torch.full((256,), -torch.inf)
    masked[65] = 3e38
    assert sample(masked, sampling, generator) == 65


ODD = """
import time, torch

class Model:
    def state(self, n):
        return torch.zeros(n, 1)

    def __call__(self, tokens, state):
        while tokens[0, 0] == 63:
            time.sleep(0.01)
        logits = torch.zeros(*tokens.shape, 256)
        logits[..., 98] = 1
        logits[tokens == 33] = torch.nan
        return logits, state
"""


async def test_failed_texts_are_counted_and_a_hanging_one_is_interrupted(tmp_path: Path) -> None:
    text_input, text_output = {"text_input": ("BYTES", [1])}, {"text_output": ("BYTES", [1])}
    write_model(
        tmp_path,
        "odd",
        ODD,
        text_input,
        text_output,
        platform="pytorch_text",
        batch_timeout_microseconds=3_000_000,
    )
    registry = Registry(tmp_path, "cpu", kinds=KINDS)
    await registry.load_all()
    served = registry.find("odd")
    assert isinstance(served, TextServed)
    good, bad = Recorded(b"prompt", temperature=0, max_tokens=5), Recorded(b"prompt!", temperature=0)
    served.generate(good)
    served.generate(bad)
    async with asyncio.timeout(60):
        while not (good.cancelled and bad.cancelled):
            await asyncio.sleep(0.02)
    assert (good.text, bad.text, "NaN" in bad.reason) == ("bbbbb", "", True)
    hanging = Recorded(b"?")
    served.generate(hanging)
    async with asyncio.timeout(60):
        await asyncio.wrap_future(served.engine.ended)
    assert "a step exceeded 3 s" in hanging.reason
    assert (served.stats.success.count, served.stats.fail.count) == (1, 2)
    await registry.close()


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
    async with asyncio.timeout(60):
        while not served.fault:
            await asyncio.sleep(0.02)
    assert "can't start a text any more" in registry.faults[0]
    assert "RuntimeError" in failing.reason
    with pytest.raises(Unavailable):
        served.generate(Recorded(b"later"))
    await registry.close()


async def test_a_thread_that_dies_while_the_model_is_unloaded_leaves_no_text_waiting(tmp_path: Path) -> None:
    text_input, text_output = {"text_input": ("BYTES", [1])}, {"text_output": ("BYTES", [1])}
    write_model(
        tmp_path, "fragile", FRAGILE, text_input, text_output, platform="pytorch_text", max_batch_size=0
    )
    registry = Registry(tmp_path, "cpu", kinds=KINDS)
    await registry.load_all()
    served = registry.find("fragile")
    assert isinstance(served, TextServed)
    failing, behind = Recorded(b"prompt", temperature=0), Recorded(b"prompt", temperature=0)
    served.generate(failing)
    served.generate(behind)
    await registry.unload("fragile")
    assert "failed" in behind.reason
    await registry.close()
