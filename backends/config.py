"""A model's `config.json`: Triton's model configuration, in JSON, as far as this server has what it says.

Keys that are not understood are errors: a setting that is silently not applied is worse than none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from backends.datatypes import Datatype, named
from backends.errors import LoadError

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$"
"""What a model may be called: it is a folder, which has at most 255 bytes, and a part of a URL."""


PLATFORMS = (
    "pytorch_module",
    "pytorch_export",
    "pytorch_aot",
    "pytorch_text",
    "torchscript",
    "onnx",
    "sklearn",
    "xgboost",
    "ensemble",
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorConfig(_Part):
    """One input or output."""

    name: Annotated[str, Field(min_length=1)]
    data_type: str
    dims: tuple[int, ...]
    """Without the batch axis when the model batches; -1 is any size."""

    @field_validator("data_type")
    @classmethod
    def _known(cls, value: str) -> str:
        return named(value).name

    @field_validator("dims")
    @classmethod
    def _sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 and size != -1 for size in value):
            raise ValueError("each size must be 1 or more, or -1 for any")
        return value

    @property
    def datatype(self) -> Datatype:
        return named(self.data_type)


class QueuePolicy(_Part):
    max_queue_size: Annotated[int, Field(ge=1)] = 1024
    """Requests that may wait; beyond it the answer is 503 with Retry-After."""
    default_timeout_microseconds: Annotated[int, Field(ge=0)] = 0
    """Maximum waiting time of a request, then 503; 0: no limit. A request may set its own."""


class DynamicBatching(_Part):
    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 0
    """How long a batch that is not full waits for more; 0: takes what is there when an instance is free."""
    default_queue_policy: QueuePolicy = QueuePolicy()


class InstanceGroup(_Part):
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """Copies of the model, each with a thread of its own."""
    kind: Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU"] = "KIND_AUTO"
    gpus: tuple[int, ...] = ()


class Latest(_Part):
    num_versions: Annotated[int, Field(ge=1)] = 1


class Specific(_Part):
    versions: Annotated[tuple[int, ...], Field(min_length=1)]


class VersionPolicy(_Part):
    """Which of the version folders are served: exactly one of `latest`, `all` and `specific`."""

    latest: Latest | None = None
    all: _Part | None = None
    specific: Specific | None = None

    @model_validator(mode="after")
    def _one(self) -> VersionPolicy:
        if sum(part is not None for part in (self.latest, self.all, self.specific)) != 1:
            raise ValueError('write one of {"latest": {"num_versions": 1}}, {"all": {}}, {"specific": {…}}')
        return self

    def pick(self, versions: list[int]) -> list[int]:
        """Those of ``versions`` (ascending) that are served."""
        if self.specific is not None:
            return [version for version in versions if version in self.specific.versions]
        if self.latest is not None:
            return versions[-self.latest.num_versions :]
        return versions


class CudaOptimization(_Part):
    graphs: bool = True
    """Whether a CUDA graph is captured for each batch size of a power of two."""


class Optimization(_Part):
    cuda: CudaOptimization = CudaOptimization()


class EnsembleStep(_Part):
    """One model of an ensemble."""

    model_name: Annotated[str, Field(pattern=NAME)]
    model_version: Annotated[int, Field(ge=-1)] = -1
    """-1: the newest that is loaded."""
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Another server that has the model; None: this one."""
    input_map: Annotated[dict[str, str], Field(min_length=1)]
    """Input of the model → tensor of the ensemble."""
    output_map: Annotated[dict[str, str], Field(min_length=1)]
    """Output of the model → tensor of the ensemble."""


class EnsembleScheduling(_Part):
    step: Annotated[tuple[EnsembleStep, ...], Field(min_length=1)]


class ModelConfig(_Part):
    """What `config.json` says."""

    name: Annotated[str, Field(pattern=NAME)]
    platform: str
    """How the version's folder is loaded: one of `PLATFORMS`."""
    max_batch_size: Annotated[int, Field(ge=0)] = 0
    """Rows; 0: the model has no batch axis, and each request runs alone."""
    input: Annotated[tuple[TensorConfig, ...], Field(min_length=1)]
    output: Annotated[tuple[TensorConfig, ...], Field(min_length=1)]
    instance_group: Annotated[tuple[InstanceGroup, ...], Field(min_length=1)] = (InstanceGroup(),)
    dynamic_batching: DynamicBatching = DynamicBatching()
    version_policy: VersionPolicy = VersionPolicy(latest=Latest())
    executor: Literal["auto", "loop", "thread", "process"] = "auto"
    """Where batches run: on the event loop, in a thread for each instance, or in the process of the device;
    `auto` takes the process for GPUs, and measures at warm-up for CPUs."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """How a network computes with floats: `tf32` in matrix products and convolutions on GPUs, `bf16` in all."""
    optimization: Optimization = Optimization()
    batch_timeout_microseconds: Annotated[int, Field(ge=0)] = 60_000_000
    """Maximum duration of one batch; beyond it its requests fail and the instance is replaced. 0: no limit."""
    ensemble_scheduling: EnsembleScheduling | None = None
    """The steps of platform `ensemble`."""
    parameters: dict[str, JsonValue] = {}
    """Handed to the model's class as keyword arguments."""

    @model_validator(mode="after")
    def _distinct(self) -> ModelConfig:
        for what, tensors in (("input", self.input), ("output", self.output)):
            if len({tensor.name for tensor in tensors}) != len(tensors):
                raise ValueError(f"two tensors of {what!r} have the same name; give each its own")
        return self

    @field_validator("platform")
    @classmethod
    def _served(cls, value: str) -> str:
        if value not in PLATFORMS:
            raise ValueError(f"unknown platform {value!r}; use one of {', '.join(PLATFORMS)}")
        return value

    @model_validator(mode="after")
    def _steps(self) -> ModelConfig:
        if (self.platform == "ensemble") != (self.ensemble_scheduling is not None):
            raise ValueError("platform ensemble and ensemble_scheduling go together; write both, or neither")
        return self

    @model_validator(mode="after")
    def _text(self) -> ModelConfig:
        if self.platform == "pytorch_text":
            named = [(one.name, one.data_type, one.dims) for one in (*self.input, *self.output)]
            if named != [("text_input", "BYTES", (1,)), ("text_output", "BYTES", (1,))]:
                raise ValueError(
                    "platform pytorch_text has input text_input and output text_output, TYPE_STRING [1]"
                )
        return self

    @model_validator(mode="after")
    def _precision(self) -> ModelConfig:
        if self.precision == "bf16" and self.platform != "pytorch_module":
            raise ValueError(
                "precision bf16 is for platform pytorch_module; save other formats in that precision"
            )
        if self.precision == "tf32" and self.executor not in ("auto", "process"):
            raise ValueError(
                f"precision tf32 holds for a whole process; write executor process, not {self.executor}"
            )
        return self

    def full_dims(self, tensor: TensorConfig) -> tuple[int, ...]:
        """The shape with the batch axis, as metadata shows it."""
        return (-1, *tensor.dims) if self.max_batch_size else tensor.dims


def read_config(path: Path) -> ModelConfig:
    """The configuration in the file ``path``. Raises LoadError that names file, key and what is wrong."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: can't be read ({error.strerror})") from None
    try:
        return ModelConfig.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(_fault(dict(item)) for item in error.errors(include_url=False))
        raise LoadError(f"{path}: {faults}") from None


def _fault(item: dict[str, object]) -> str:
    place = item["loc"]
    key = ".".join(str(part) for part in place) if isinstance(place, tuple) else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "no such key; remove it"
    return f"{key}: {message}" if key else message
