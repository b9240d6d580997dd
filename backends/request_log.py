"""Requests and their results: sampled, cut to a number of values, redacted by tensor name."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from backends.batching.entry import Entry, Outcome, Part
from backends.datatypes import bf16_to_fp32
from backends.errors import ServerError
from backends.request_sinks import open_sink
from backends.wire.signature import Signature, TensorSpec

log = logging.getLogger("turnout.backend")

MAX_WAITING_LINES: Final = 1000
IDLE_S: Final = 1.0
RETRY_S: Final = 1.0
COMPLAINT_INTERVAL_S: Final = 60.0
"""A disk that stays full is reported this often."""
CLOSE_LIMIT_S: Final = 5.0
MAX_TEXT: Final = 256
"""Characters of one BYTES element."""


@dataclass(frozen=True, slots=True)
class RequestLogSettings:
    """What is written."""

    path: Path
    sample: float = 1.0
    """Share of the requests."""
    values: int = 64
    """Maximum values of one tensor; 0: shapes only."""
    redact: frozenset[str] = frozenset()
    """Names of tensors whose values are left out."""


class RequestLog:
    """Writes from a thread of its own, so that a slow disk holds up no request."""

    def __init__(self, settings: RequestLogSettings) -> None:
        """Raises OSError if the file can't be opened, ImportError if its format needs a library."""
        self.dropped = 0
        """Lines lost because the disk was too slow."""
        self._settings = settings
        self._sink = open_sink(settings.path)
        self._complained = -COMPLAINT_INTERVAL_S
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING_LINES)
        self._thread = threading.Thread(target=self._write, name="request log", daemon=True)
        self._thread.start()

    def offer(self, name: str, version: str, signature: Signature, entry: Entry, outcome: Outcome) -> None:
        """Writes a line about ``entry``, if the sample falls on it."""
        if random.random() >= self._settings.sample:
            return
        document: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "model": name,
            "version": version,
            "rows": entry.rows,
            "milliseconds": round((time.perf_counter_ns() - entry.arrived) / 1e6, 3),
            "inputs": self._inputs(signature, entry),
        }
        if isinstance(outcome, ServerError):
            document |= {"status": outcome.status, "error": outcome.message}
        else:
            pairs = zip(signature.outputs.values(), outcome, strict=True)
            document |= {
                "status": 200,
                "outputs": [self._tensor(spec, one, one.shape) for spec, one in pairs],
            }
        try:
            self._lines.put_nowait(orjson.dumps(document) + b"\n")
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Writes what waits."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=CLOSE_LIMIT_S)
        self._thread.join(CLOSE_LIMIT_S)
        if lost := self.dropped + self._sink.lost:
            log.warning("the request log lost %d lines: the disk was too slow, or full", lost)

    def _inputs(self, signature: Signature, entry: Entry) -> list[dict[str, Any]]:
        return [
            self._tensor(spec, part, (entry.rows, *key) if signature.max_batch_size else key)
            for spec, part, key in zip(signature.inputs.values(), entry.inputs, entry.key, strict=True)
        ]

    def _tensor(self, spec: TensorSpec, part: Part, shape: Iterable[int]) -> dict[str, Any]:
        tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype.name, "shape": list(shape)}
        if spec.name in self._settings.redact:
            tensor["redacted"] = True
        elif self._settings.values:
            flat = _flat(spec, part)
            shown = flat[: self._settings.values]
            tensor["data"], shortened = _listed(spec, shown)
            if shortened or len(shown) < len(flat):
                tensor["truncated"] = True
        return tensor

    def _write(self) -> None:
        while self._take():
            pass
        try:
            self._sink.close()
        except Exception as error:  # noqa: BLE001  a library's own errors, too
            self._complain(error)

    def _take(self) -> bool:
        """Writes the next line; False at the end."""
        try:
            line = self._lines.get(timeout=IDLE_S)
            if line is None:
                return False
            self._sink.write(line)
        except queue.Empty:
            pass
        except Exception as error:  # noqa: BLE001  a library's own errors, too
            self._complain(error)
        if self._lines.empty():
            try:
                self._sink.idle()
            except Exception as error:  # noqa: BLE001
                self._complain(error)
        return True

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAINT_INTERVAL_S:
            self._complained = now
            log.error("the request log can't be written: %s", getattr(error, "strerror", None) or error)
        time.sleep(RETRY_S)


def _flat(spec: TensorSpec, part: Part) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return part.reshape(-1)
    return np.frombuffer(part, spec.datatype.dtype)


def _listed(spec: TensorSpec, values: np.ndarray) -> tuple[list[Any], bool]:
    """``values``, and whether texts among them are shortened."""
    if spec.datatype.kind == "bytes":
        texts = [value[: 4 * MAX_TEXT + 1].decode(errors="replace") for value in values]
        return [text[:MAX_TEXT] for text in texts], any(len(text) > MAX_TEXT for text in texts)
    return (bf16_to_fp32(values) if spec.datatype.name == "BF16" else values).tolist(), False
