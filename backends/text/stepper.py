"""A PyTorch model over bytes, with the states of the running texts in one tensor."""

from __future__ import annotations

from typing import Any

import torch

from backends.errors import LoadError
from backends.runtime.loaded import Loaded
from backends.text.engine import sample
from backends.text.generation import Sampling


class TorchStepper:
    """See `backends.text.engine.Stepper`.

    The model is called with ``tokens`` INT64 [n, t] and ``state`` [n, ...], and returns logits
    FP32 [n, t, 256] and the next state; its method ``state(n)`` returns the state before any byte.
    """

    def __init__(self, model: Loaded, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._states: Any = None
        self._drawing: list[tuple[Sampling, torch.Generator]] = []

    def enter(self) -> None:
        """See `backends.text.engine.Stepper`."""
        torch.set_num_threads(self._threads)
        self._states = self._model.instance.state(0)

    def warm_up(self) -> None:
        """Raises LoadError if the model does not do as the class says."""
        try:
            self.enter()
            self.join(b"warm-up", Sampling())
            (byte,) = self.step([0])
            if not 0 <= byte < 256:
                raise LoadError(f"the model gave the byte {byte}; its logits must be finite, and [n, t, 256]")
        except LoadError:
            raise
        except BaseException as error:
            raise LoadError(f"warm-up: {type(error).__name__}: {error}") from error
        self.leave([])

    def join(self, prompt: bytes, sampling: Sampling) -> int:
        """See `backends.text.engine.Stepper`."""
        generator = torch.Generator()
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        with torch.inference_mode():
            tokens = torch.frombuffer(bytearray(prompt or b"\0"), dtype=torch.uint8).long()[None]
            logits, state = self._model.call({"tokens": tokens, "state": self._model.instance.state(1)})
            states = torch.cat((self._states, state))
            byte = sample(logits[0, -1], sampling, generator)
        self._states = states
        self._drawing.append((sampling, generator))
        return byte

    def step(self, last: list[int]) -> list[int]:
        """See `backends.text.engine.Stepper`."""
        with torch.inference_mode():
            tokens = torch.tensor(last)[:, None]
            logits, self._states = self._model.call({"tokens": tokens, "state": self._states})
            return [
                sample(row, sampling, generator)
                for row, (sampling, generator) in zip(logits[:, -1], self._drawing, strict=True)
            ]

    def leave(self, kept: list[int]) -> None:
        """See `backends.text.engine.Stepper`."""
        self._states = self._states[kept] if kept else self._model.instance.state(0)
        self._drawing = [self._drawing[slot] for slot in kept]

    def close(self) -> None:
        """See `backends.text.engine.Stepper`."""
        self._states = None
        self._model.close()
        del self._model
