"""Ensembles: a model whose requests run through other models, in Triton's words."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import numpy as np

from backends.batching.entry import Entry
from backends.config import EnsembleStep, ModelConfig
from backends.ensemble_steps import HttpStep, LocalStep, Step, StepChanged, Tensor, open_steps
from backends.errors import LoadError, ModelFailed, NotFound, ServerError, Unavailable
from backends.repository import FoundVersion
from backends.served import Served
from backends.wire.signature import TensorSpec

log = logging.getLogger("turnout.backend")


class EnsembleServed(Served):
    """See `Served`; a request runs through the steps, each of which batches with all other requests for it."""

    def __init__(
        self, config: ModelConfig, found: FoundVersion, find: Callable[[str, str], Served] | None = None
    ) -> None:
        super().__init__(config, found, find)
        self._running: dict[Entry, asyncio.Task[None]] = {}
        self._clients = AsyncExitStack()

    async def start(self, device: str, threads: int) -> None:
        """Checks the steps. Raises LoadError."""
        assert self.config.ensemble_scheduling is not None
        try:
            self._waves = self._ordered(
                await open_steps(self.config.ensemble_scheduling.step, self._local, self._clients)
            )
        except BaseException:
            await self._clients.aclose()
            raise

    async def stop(self) -> None:
        """See `Served`."""
        self.queue.close()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await self._clients.aclose()

    def submit(self, entry: Entry, timeout: float = 0.0) -> None:
        """See `Served`. Raises Unavailable."""
        if self.queue.closed:
            raise Unavailable("this version is being unloaded; send the request again")
        if len(self._running) >= self.config.dynamic_batching.default_queue_policy.max_queue_size:
            self.stats.rejected += 1
            raise Unavailable(f"{len(self._running)} requests run already; try again as Retry-After says")
        try:
            entry.hold(self.pending)
        except Unavailable:
            self.stats.rejected += 1
            raise
        task = asyncio.get_running_loop().create_task(self._respond(entry, timeout))
        self._running[entry] = task
        task.add_done_callback(lambda _: self._running.pop(entry, None))

    def abandon(self, entry: Entry) -> None:
        """See `Served`."""
        if entry.done:
            return
        entry.end()
        task = self._running.get(entry)
        if task is not None:
            task.cancel()

    def _local(self, config: EnsembleStep) -> LocalStep:
        if config.model_name == self.name:
            raise LoadError(f"{self.title()}: a step is the ensemble itself; name another model")
        try:
            step = LocalStep(config, self.find)
        except (NotFound, Unavailable) as error:
            raise LoadError(
                f"{self.title()}: a step needs model {config.model_name!r}: {error.message}"
            ) from None
        served = step.served
        if isinstance(served, EnsembleServed):
            raise LoadError(
                f"{self.title()}: step {config.model_name!r} is an ensemble; write its steps here"
            )
        limit = self.config.max_batch_size
        if (limit > 0) != (served.config.max_batch_size > 0) or limit > served.config.max_batch_size:
            raise self._too_small(config, served.config.max_batch_size)
        return step

    def _too_small(self, step: EnsembleStep, rows: int) -> LoadError:
        return LoadError(
            f"{self.title()}: max_batch_size is {self.config.max_batch_size}, and that of step "
            f"{step.model_name!r} {rows}; write at most this"
        )

    def _ordered(self, steps: list[Step]) -> list[list[Step]]:
        """Waves of steps that need only what earlier waves give. Raises LoadError for cycles and mismatches."""
        known = dict(self.signature.inputs)
        waves, left = [], list(steps)
        while left:
            wave = [step for step in left if set(step.config.input_map.values()) <= known.keys()]
            if not wave:
                raise LoadError(
                    f"{self.title()}: nothing gives {self._missing(left, known)!r} before it is needed; "
                    "write it into an output_map, without a cycle"
                )
            for step in wave:
                self._check_inputs(step, known)
            for step in wave:
                self._add_outputs(step, known)
            waves.append(wave)
            left = [step for step in left if step not in wave]
        for name, wanted in self.signature.outputs.items():
            if name in self.signature.inputs:
                raise LoadError(
                    f"{self.title()}: {name!r} is both an input and an output; rename one of them"
                )
            if name not in known:
                raise LoadError(
                    f"{self.title()}: no step gives the output {name!r}; write it into an output_map"
                )
            self._match(known[name], wanted, f"output {name!r}")
        return waves

    def _missing(self, steps: list[Step], known: Mapping[str, TensorSpec]) -> str:
        return min(name for step in steps for name in step.config.input_map.values() if name not in known)

    def _check_inputs(self, step: Step, known: Mapping[str, TensorSpec]) -> None:
        name, mapped = step.config.model_name, step.config.input_map
        if mapped.keys() != step.signature.inputs.keys():
            raise LoadError(
                f"{self.title()}: input_map of step {name!r} has {', '.join(mapped)}; "
                f"the model takes {', '.join(step.signature.inputs)}"
            )
        rows = step.signature.max_batch_size
        if isinstance(step, HttpStep) and 0 < rows < self.config.max_batch_size:
            raise self._too_small(step.config, rows)
        for key, tensor in mapped.items():
            self._match(known[tensor], step.signature.inputs[key], f"input {key!r} of step {name!r}")

    def _add_outputs(self, step: Step, known: dict[str, TensorSpec]) -> None:
        for key, tensor in step.config.output_map.items():
            spec = step.signature.outputs.get(key)
            if spec is None:
                raise LoadError(f"{self.title()}: step {step.config.model_name!r} has no output {key!r}")
            if tensor in known:
                raise LoadError(f"{self.title()}: {tensor!r} is given twice; give each tensor its own name")
            known[tensor] = spec

    def _match(self, given: TensorSpec, wanted: TensorSpec, what: str) -> None:
        if given.datatype is not wanted.datatype or not _agree(given.shape, wanted.shape):
            raise LoadError(f"{self.title()}: {what} is {wanted}, and is given {given}; they must agree")

    async def _respond(self, entry: Entry, timeout: float) -> None:
        try:
            outputs = await self._run(entry, timeout)
        except Exception as error:
            if not isinstance(error, ServerError):
                log.error("%s failed", self.title(), exc_info=error)
                error = ModelFailed(f"{self.title()} failed; the server's log has the details")
            if isinstance(error, StepChanged):
                self.fault = error.message
            self.stats.fail.add(time.perf_counter_ns() - entry.arrived)
            self.write_log(entry, error)
            entry.settle(error)
            return
        self.stats.record_ensemble(entry.rows, time.perf_counter_ns() - entry.arrived)
        self.write_log(entry, outputs)
        entry.settle(outputs)

    async def _run(self, entry: Entry, timeout: float) -> list[np.ndarray]:
        batched = self.config.max_batch_size > 0
        tensors: dict[str, Tensor] = {
            name: (part, (entry.rows, *key) if batched else key)
            for name, part, key in zip(self.signature.inputs, entry.inputs, entry.key, strict=True)
        }
        for wave in self._waves:
            await asyncio.gather(*(self._run_step(step, tensors, entry.rows, timeout) for step in wave))
        return [np.asarray(tensors[name][0]) for name in self.signature.outputs]

    async def _run_step(self, step: Step, tensors: dict[str, Tensor], rows: int, timeout: float) -> None:
        outputs = await step.run(tensors, rows, timeout)
        for name, tensor in step.config.output_map.items():
            spec = step.signature.outputs[name]
            array = np.ascontiguousarray(outputs[spec.index])
            wanted = (rows, *spec.shape[1:]) if self.config.max_batch_size else spec.shape
            if array.dtype != spec.datatype.dtype or not _agree(array.shape, wanted):
                if isinstance(step, HttpStep):
                    await step.check()
                raise ModelFailed(
                    f"step {step.config.model_name!r} gave {name!r} as {array.dtype} {list(array.shape)}; "
                    f"its server announced {spec}"
                )
            tensors[tensor] = (array, array.shape)


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes are the same where both are known."""
    return len(one) == len(other) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True)
    )
