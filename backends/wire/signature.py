"""What a model takes and gives, prepared for checking requests against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.config import ModelConfig, TensorConfig
from backends.datatypes import Datatype


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output; `shape` includes the batch axis (-1: any size)."""

    index: int
    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name!r} ({self.datatype.name} {list(self.shape)})"


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model by name, and the most rows one request may bring."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    max_batch_size: int
    """0: no batch axis."""
    all_outputs: tuple[tuple[tuple[TensorSpec, bool], ...], tuple[tuple[TensorSpec, bool], ...]]
    """What a request gets that names no outputs: all of them as JSON, or (second) as binary data."""

    @property
    def only_input(self) -> TensorSpec:
        """The input of a model that has one."""
        return next(iter(self.inputs.values()))

    @classmethod
    def of(cls, config: ModelConfig) -> Signature:
        outputs = _specs(config, config.output)
        as_json, as_binary = (tuple((spec, form) for spec in outputs.values()) for form in (False, True))
        return cls(_specs(config, config.input), outputs, config.max_batch_size, (as_json, as_binary))


def _specs(config: ModelConfig, tensors: tuple[TensorConfig, ...]) -> dict[str, TensorSpec]:
    return {
        tensor.name: TensorSpec(index, tensor.name, tensor.datatype, config.full_dims(tensor))
        for index, tensor in enumerate(tensors)
    }
