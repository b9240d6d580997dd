"""A loaded PyTorch model: gathers rows, copies them to the device, calls the model, checks and copies back."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, cast

import numpy as np
import torch

from backends.batching.entry import Part, Spans
from backends.config import ModelConfig, TensorConfig
from backends.datatypes import Datatype
from backends.errors import InvalidInput, LoadError, ModelFailed
from backends.owner.layout import Layout
from backends.runtime.loaded import Loaded

TORCH: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "FP32": torch.float32,
    "FP64": torch.float64,
    "BF16": torch.bfloat16,
}
OUT_OF_MEMORY: Final = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""How PyTorch words it where it raises a plain RuntimeError: CPU and pinned memory, cuBLAS, cuDNN."""
WARM_UP_RUNS: Final = 3
_NOTHING: Final = nullcontext()


class TorchExecutable:
    """One copy of a model on one device. All its methods belong to one thread."""

    def __init__(self, config: ModelConfig, model: Loaded, device: torch.device, threads: int = 1) -> None:
        self._model = model
        self._call = model.call
        self._threads = threads
        self._device = device
        self._cuda = device.type == "cuda"
        self._inputs = [(tensor.name, tensor.datatype) for tensor in config.input]
        self._outputs = [(tensor.name, tensor.datatype, config.full_dims(tensor)) for tensor in config.output]
        self._batched = config.max_batch_size > 0
        self.batch_seconds = math.inf
        self.predictable = (
            model.network
            and threads == 1
            and not self._cuda
            and all(tensor.datatype.kind != "bytes" and -1 not in tensor.dims for tensor in config.input)
        )
        self.capturable = model.network and self._batched and Layout.of(config).complete
        """Whether every batch of a size is the same work on the same shapes, as a CUDA graph needs it."""
        self._low = config.precision == "bf16"
        # A stream of its own, so that instances on one device don't wait for one another.
        self._stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        if self._stream is not None:  # the current one copied the weights
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def run(
        self, parts: Sequence[tuple[Part, ...]], rows: int, key: tuple[tuple[int, ...], ...], spans: Spans
    ) -> list[np.ndarray]:
        """See `backends.batching.execution.Executable`."""
        with torch.inference_mode(), self._on_stream():
            return self._run(parts, rows, key, spans)

    def enter(self) -> None:
        """See `backends.batching.execution.Executable`."""
        # OpenMP keeps the number of threads per calling thread.
        torch.set_num_threads(self._threads)

    def close(self) -> None:
        """See `backends.batching.execution.Executable`."""
        self._model.close()
        del self._model, self._call

    def out_of_memory(self, error: BaseException) -> bool:
        """See `backends.batching.execution.Executable`."""
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)

    def poisoned(self) -> bool:
        """Whether the device is unusable for this process: after an illegal access every call raises."""
        if not self._cuda:
            return False
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return True
        return False

    def compute(self, inputs: dict[str, Any], rows: int) -> list[Any]:
        """The model's outputs for ``inputs`` on the device, in the configuration's order and checked.

        Raises ModelFailed, or whatever the model raises.
        """
        if self._low:
            inputs = {name: _to_low(value) for name, value in inputs.items()}
        given = self._by_name(self._call(inputs))
        return [
            self._checked(given[name], name, datatype, dims, rows) for name, datatype, dims in self._outputs
        ]

    def _on_stream(self) -> AbstractContextManager[Any]:
        return _NOTHING if self._stream is None else torch.cuda.stream(self._stream)

    def _run(
        self, parts: Sequence[tuple[Part, ...]], rows: int, key: tuple[tuple[int, ...], ...], spans: Spans
    ) -> list[np.ndarray]:
        start = time.perf_counter_ns()
        inputs = {
            name: self._gather(
                datatype,
                (rows, *key[index]) if self._batched else key[index],
                [part[index] for part in parts],
            )
            for index, (name, datatype) in enumerate(self._inputs)
        }
        gathered = time.perf_counter_ns()
        computed = self.compute(inputs, rows)
        called = time.perf_counter_ns()
        outputs = [self._to_host(value) for value in computed]
        if self._stream is not None:
            self._stream.synchronize()
        arrays = [_as_numpy(output) for output in outputs]
        ended = time.perf_counter_ns()
        # On CUDA the calls only enqueue work; the device's time shows in the last part, which waits for it.
        spans.input += gathered - start
        spans.infer += called - gathered
        spans.output += ended - called
        return arrays

    def _gather(self, datatype: Datatype, shape: tuple[int, ...], parts: list[Part]) -> Any:
        """The parts of all requests as one tensor, copied once; the model may write into it."""
        if datatype.kind == "bytes":
            return np.concatenate(parts).reshape(shape)
        if self._cuda:
            return self._pinned(datatype, shape, parts).to(self._device, non_blocking=True)
        memory = bytearray().join(cast("list[memoryview]", parts))
        if not memory:
            return torch.empty(shape, dtype=TORCH[datatype.name])
        return torch.frombuffer(memory, dtype=TORCH[datatype.name]).view(shape)

    def _pinned(self, datatype: Datatype, shape: tuple[int, ...], parts: list[Part]) -> torch.Tensor:
        host = torch.empty(shape, dtype=TORCH[datatype.name], pin_memory=True)
        target = host.view(-1).view(torch.uint8).numpy() if host.numel() else np.empty(0, np.uint8)
        start = 0
        for part in parts:
            target[start : start + part.nbytes] = np.frombuffer(part, np.uint8)
            start += part.nbytes
        return host

    def _by_name(self, given: Any) -> Mapping[str, Any]:
        """The model's outputs by name: it may give them so, or in the configuration's order, or alone."""
        if isinstance(given, Mapping):
            missing = [name for name, *_ in self._outputs if name not in given]
            if missing:
                raise ModelFailed(f"the model gave no output {missing[0]!r}, which config.json lists")
            return given
        values = given if isinstance(given, tuple | list) else (given,)
        if len(values) != len(self._outputs):
            raise ModelFailed(f"the model gave {len(values)} outputs; config.json lists {len(self._outputs)}")
        return {name: value for (name, *_), value in zip(self._outputs, values, strict=True)}

    def _checked(self, value: Any, name: str, datatype: Datatype, dims: tuple[int, ...], rows: int) -> Any:
        """``value``, if it is what config.json says. Raises ModelFailed."""
        if datatype.kind == "bytes":
            right = isinstance(value, np.ndarray) and set(map(type, value.flat)) <= {bytes}
        else:
            value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            if self._low and isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16:
                value = value.to(TORCH[datatype.name])
            right = isinstance(value, torch.Tensor) and value.dtype is TORCH[datatype.name]
        if not right:
            got = getattr(value, "dtype", type(value).__name__)
            raise ModelFailed(f"the model gave output {name!r} as {got}; config.json says {datatype.name}")
        shape = tuple(value.shape)
        want = (rows, *dims[1:]) if self._batched else dims
        if len(shape) != len(want) or any(w not in (-1, g) for g, w in zip(shape, want, strict=True)):
            raise ModelFailed(
                f"the model gave output {name!r} with shape {list(shape)}; it should be {list(want)}"
            )
        return value

    def _to_host(self, value: Any) -> Any:
        """``value`` on its way to the host."""
        # A copy on the CPU too: the model may return what it keeps, and write into it with the next batch.
        if isinstance(value, np.ndarray):
            return value.copy()
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=self._cuda)
        return host.copy_(value, non_blocking=self._cuda)

    def warm_up(self, config: ModelConfig) -> None:
        """Runs zeros through the model, one row and a full batch: faults show now, and the device is ready.

        Raises LoadError if the output isn't what config.json says.
        """
        for rows in sorted({1, max(config.max_batch_size, 1)}):
            try:
                self._measure(config, rows)
            except InvalidInput:
                self.batch_seconds = math.inf  # a model may refuse zeros
            except BaseException as error:
                raise LoadError(
                    f"warm-up with zeros ({rows} rows): {type(error).__name__}: {error}"
                ) from error

    def _measure(self, config: ModelConfig, rows: int) -> None:
        zeros = tuple(_zeros(tensor, config, rows) for tensor in config.input)
        key = tuple(array.shape[1:] if self._batched else array.shape for array in zeros)
        durations = []
        for _ in range(WARM_UP_RUNS):
            start = time.perf_counter()
            self.run([zeros], rows, key, Spans())
            durations.append(time.perf_counter() - start)
        self.batch_seconds = min(durations)


def _to_low(value: Any) -> Any:
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(torch.bfloat16) if floats else value


def _as_numpy(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    array: np.ndarray = (value.view(torch.uint16) if value.dtype is torch.bfloat16 else value).numpy()
    return array


def _zeros(tensor: TensorConfig, config: ModelConfig, rows: int) -> np.ndarray:
    dims = [max(size, 1) for size in tensor.dims]
    shape = [rows, *dims] if config.max_batch_size else dims
    if tensor.datatype.kind == "bytes":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype=tensor.datatype.dtype)
