"""What the server and a device process tell each other, pickled: both run the same code and the same models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backends.batching.entry import Spans
from backends.config import ModelConfig
from backends.errors import ServerError
from backends.repository import FoundVersion


@dataclass(frozen=True, slots=True)
class Load:
    """The first message on a channel."""

    config: ModelConfig
    found: FoundVersion
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The reply to `Load`; `fault` says why the model can't be used."""

    fault: str = ""
    buckets: tuple[int, ...] = ()
    """The batch sizes with a CUDA graph."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch whose inputs are in ``slot``."""

    slot: int
    requests: int
    rows: int
    key: tuple[tuple[int, ...], ...]
    inline: dict[int, Any] = field(default_factory=dict)
    """By index, the inputs without a place in the slot."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outputs of the batch in ``slot``, or why there are none."""

    slot: int
    spans: Spans
    error: ServerError | None = None
    inline: dict[int, Any] = field(default_factory=dict)
    """By index, the outputs without a place in the slot."""
