"""One text to be generated: its parameters, and the text until a stop sequence."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from backends.errors import ServerError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How bytes are drawn."""

    max_tokens: int = 128
    """Bytes."""
    temperature: float = 1.0
    """0: always the most probable byte."""
    top_p: float = 1.0
    """Only the most probable bytes that together have this probability."""
    stop: tuple[str, ...] = ()
    seed: int | None = None


class TextStream:
    """Turns bytes into text: whole characters only, up to a stop sequence."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        """What may be the beginning of a stop sequence."""
        self.stopped = False

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The text that is certain after ``data``."""
        text = self._held + self._decoder.decode(data, last)
        self._held = ""
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        if last:
            return text
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        if held:
            text, self._held = text[:-held], text[-held:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that begin ``stop``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class Generation:
    """A generation; subclasses define `piece` and `end`, which are called on the event loop."""

    def __init__(self, prompt: bytes, sampling: Sampling) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.tokens = 0
        """Bytes generated so far."""
        self.cancelled = False
        """Whether its client has left, or it is complete."""
        self.arrived = 0
        """Nanoseconds of `time.perf_counter_ns`."""
        self._text = TextStream(sampling.stop)

    def feed(self, data: bytes, finished: bool) -> bool:
        """Takes the next byte, or the end of the text (``finished``); whether it is complete now."""
        if self.cancelled:
            return False
        self.tokens += len(data)
        full = self.tokens >= self.sampling.max_tokens
        text = self._text.feed(data, last=finished or full)
        if text:
            self.piece(text)
        if finished or full or self._text.stopped:
            self.cancelled = True
            self.end("stop" if finished or self._text.stopped else "length")
            return True
        return False

    def fail(self, error: ServerError) -> bool:
        """Ends it with ``error``, unless it has ended; whether it does."""
        if self.cancelled:
            return False
        self.cancelled = True
        self.error(error)
        return True

    def piece(self, text: str) -> None:
        """More text."""
        raise NotImplementedError

    def end(self, reason: str) -> None:
        """The text is complete: ``stop`` or ``length``."""
        raise NotImplementedError

    def error(self, error: ServerError) -> None:
        """There will be no more text."""
        raise NotImplementedError
