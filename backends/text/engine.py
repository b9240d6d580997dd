"""Continuous batching: every step advances all running texts by a byte; texts join and leave between steps."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Protocol

from backends.batching.execution import attempt
from backends.errors import ModelFailed, ServerError, Unavailable
from backends.forks import FORKS
from backends.text.generation import Generation, Sampling
from backends.threads import interrupt

log = logging.getLogger("turnout.backend")

END_OF_TEXT: Final = 0
"""The byte that ends a text."""
NO_BYTE: Final = -1
"""In place of a byte: none can be drawn, because a logit is NaN or the greatest one is infinite."""
MIN_TEMPERATURE: Final = 1e-6
"""Below it the most probable byte is taken: float32 can't divide by much less."""

Event = tuple[Generation, bytes | ServerError, bool]
"""A generation, its next byte (b"": none) or why it failed, and whether the text has ended."""


class Stepper(Protocol):
    """A model with the states of the running texts, by slot. Called in the engine's thread only."""

    def enter(self) -> None:
        """Prepares the calling thread."""
        ...

    def join(self, prompt: bytes, sampling: Sampling) -> int:
        """Reads ``prompt`` into a new last slot; the first byte. If it raises, there is no new slot."""
        ...

    def step(self, last: list[int]) -> list[int]:
        """The next byte of each slot, after its ``last``; `NO_BYTE` fails the text of that slot alone."""
        ...

    def leave(self, kept: list[int]) -> None:
        """Keeps only the slots ``kept``, in this order."""
        ...

    def close(self) -> None:
        """Releases the model."""
        ...


class Engine:
    """A thread that runs up to ``slots`` texts together; up to ``limit`` more wait."""

    def __init__(
        self, name: str, stepper: Stepper, slots: int, limit: int, deliver: Callable[[list[Event]], None]
    ) -> None:
        self.started = 0
        """When the running step began; nanoseconds of `time.perf_counter_ns`. 0: none runs."""
        self.ended: Future[None] = Future()
        self.steps = 0
        self._name = name
        self._stepper = stepper
        self._slots = slots
        self._limit = limit
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Generation] = deque()
        self._joining: list[Generation] = []
        self._running: list[Generation] = []
        self._last: list[int] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, generation: Generation) -> None:
        """Queues ``generation``. Raises Unavailable."""
        with self._changed:
            if self._closed:
                raise Unavailable("this version is being unloaded; send the request again")
            if len(self._waiting) >= self._limit:
                self._waiting = deque(one for one in self._waiting if not one.cancelled)
            if len(self._waiting) >= self._limit:
                raise Unavailable(
                    f"{self._limit} requests are waiting already; try again as Retry-After says"
                )
            self._waiting.append(generation)
            self._changed.notify()

    def close(self) -> None:
        """Refuses new texts; running and waiting ones are completed, then the thread ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def give_up(self) -> None:
        """Refuses new texts, and interrupts a step in Python code; native code is left to run to its end."""
        self.close()
        interrupt(self._thread)

    @property
    def broken(self) -> bool:
        """Whether the thread has ended though it should not."""
        return self.ended.done() and not self._closed

    def everything(self) -> list[Generation]:
        """All generations that are not complete."""
        return [*self._running, *self._joining, *self._waiting]

    def _main(self) -> None:
        try:
            self._stepper.enter()
            while self._turn():
                pass
            self._stepper.close()
        except BaseException as error:
            log.critical("%s: its thread ended", self._name, exc_info=error)
        finally:
            self.ended.set_result(None)

    def _turn(self) -> bool:
        """One step; False once closed and without work."""
        with self._changed:
            while not self._waiting and not self._running:
                if self._closed:
                    return False
                self._changed.wait()
            while self._waiting and len(self._running) + len(self._joining) < self._slots:
                self._joining.append(self._waiting.popleft())
        self.started = time.perf_counter_ns()
        events = self._step()
        self.started = 0
        self._joining = []
        self.steps += 1
        self._loop.call_soon_threadsafe(self._deliver, events)
        return True

    def _step(self) -> list[Event]:
        refused: list[Event] = []
        try:
            self._forget_complete()
            if self._running:
                self._last = self._stepper.step(self._last)
            refused.extend(
                (generation, fault, True)
                for generation in self._joining
                if (fault := self._join(generation)) is not None
            )
            return refused + [self._event(*pair) for pair in zip(self._running, self._last, strict=True)]
        except BaseException as error:
            log.error("%s failed on %d texts", self._name, len(self._running), exc_info=error)
            self._fail(refused, type(error).__name__)
            return []
        finally:
            FORKS.end_child()

    def _event(self, generation: Generation, byte: int) -> Event:
        if byte == NO_BYTE:
            log.error("%s gave a text logits that no byte can be drawn from", self._name)
            return generation, ModelFailed(f"{self._name} gave logits that are NaN or infinite"), True
        return generation, b"" if byte == END_OF_TEXT else bytes((byte,)), byte == END_OF_TEXT

    def _join(self, generation: Generation) -> ServerError | None:
        """Starts a text; the error of a prompt that the model can't take, which fails alone."""
        if generation.cancelled:
            return None
        join = partial(self._stepper.join, generation.prompt, generation.sampling)
        byte = attempt(self._name, join, _no_memory, 1, 1)
        if isinstance(byte, ServerError):
            return byte
        self._last.append(byte)
        self._running.append(generation)
        return None

    def _forget_complete(self) -> None:
        kept = [
            slot
            for slot, (one, byte) in enumerate(zip(self._running, self._last, strict=True))
            if not one.cancelled and byte not in (END_OF_TEXT, NO_BYTE)
        ]
        if len(kept) < len(self._running):
            self._stepper.leave(kept)
            self._running = [self._running[slot] for slot in kept]
            self._last = [self._last[slot] for slot in kept]

    def _fail(self, refused: list[Event], kind: str) -> None:
        """The states of all slots are in doubt: every text of the step fails, later ones start afresh."""
        fault: ServerError = ModelFailed(f"{self._name} failed ({kind}); the server's log has the details")
        failed: list[Event] = [(one, fault, True) for one in {*self._running, *self._joining}]
        self._loop.call_soon_threadsafe(self._deliver, refused + failed)
        self._running, self._last = [], []
        self._stepper.leave([])


def _no_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError)


def sample(logits: Any, sampling: Sampling, generator: Any) -> int:
    """A byte from ``logits`` (float32 [256]), or `NO_BYTE`."""
    import torch

    greatest = logits.max()
    if not math.isfinite(greatest):
        return NO_BYTE
    if sampling.temperature < MIN_TEMPERATURE:
        return int(logits.argmax())
    probabilities = torch.softmax((logits - greatest) / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered > sampling.top_p] = 0
        return int(places[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
