"""The calls of CUDA that overlapping batches need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backends.errors import LoadError
from backends.runtime.slots import COMPUTE, COPY_IN, COPY_OUT

CAPTURE_WARM_UP_RUNS = 3
"""Before a capture, so that libraries have chosen their algorithms and taken their memory."""


class CudaDevice:
    """See `backends.runtime.slots.Device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams = {name: _stream(device) for name in (COPY_IN, COMPUTE, COPY_OUT)}
        for stream in self._streams.values():  # the current one copied the weights
            stream.wait_stream(torch.cuda.current_stream(device))
        self._pool = torch.cuda.graph_pool_handle()

    def enqueue(self, stream: str, work: Callable[[], None], *, after: Any) -> Any:
        """See `Device`."""
        target = self._streams[stream]
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(target):
            if after is not None:
                target.wait_event(after)
            work()
            event.record(target)
        return event

    def capture(self, work: Callable[[], list[Any]]) -> tuple[Callable[[], None], list[Any]]:
        """See `Device`."""
        stream = self._streams[COMPUTE]
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(CAPTURE_WARM_UP_RUNS):
                work()
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        # Thread-local: other models of this process may allocate and copy meanwhile.
        with (
            torch.inference_mode(),
            torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
        ):
            outputs = work()
        return graph.replay, outputs

    def wait(self, event: Any) -> None:
        """See `Device`."""
        event.synchronize()

    def nanoseconds(self, first: Any, second: Any) -> int:
        """See `Device`."""
        return int(first.elapsed_time(second) * 1e6)

    def pin(self, memory: memoryview) -> None:
        """See `Device`. Raises LoadError."""
        code = _runtime().cudaHostRegister(_address(memory), memory.nbytes, 0)
        if int(code) != 0:
            raise LoadError(f"{memory.nbytes} bytes of memory can't be pinned (CUDA error {int(code)})")

    def unpin(self, memory: memoryview) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self.device)
        _runtime().cudaHostUnregister(_address(memory))


def use_precision(precision: str) -> None:
    """Sets how this whole process multiplies float32 on GPUs: ``tf32``, or exactly."""
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def _address(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
