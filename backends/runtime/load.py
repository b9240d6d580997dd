"""The one call by which the rest of the server has a version loaded."""

from __future__ import annotations

import logging

import torch

from backends.config import ModelConfig
from backends.errors import LoadError
from backends.owner.layout import SlotMemory
from backends.owner.messages import Load
from backends.owner.runner import Runner
from backends.repository import FoundVersion
from backends.runtime.cuda import CudaDevice, use_precision
from backends.runtime.device import available, place, threads_for
from backends.runtime.executable import TorchExecutable
from backends.runtime.loading import load
from backends.runtime.plain import PlainRunner
from backends.runtime.slots import SlotRunner
from backends.text.stepper import TorchStepper

log = logging.getLogger("turnout.backend")


def devices(config: ModelConfig, device: str) -> list[str]:
    """Where each instance of a model goes. Raises LoadError."""
    return [str(one) for one in place(config.instance_group, available(device))]


def executable(config: ModelConfig, version: FoundVersion, device: str, threads: int) -> TorchExecutable:
    """A warm copy of ``version`` on ``device``, with ``threads`` CPU threads (0: by the model's size).

    Raises LoadError.
    """
    target = torch.device(device)
    model = load(config, version.folder, target)
    if config.precision == "bf16":
        model.instance.to(torch.bfloat16)
    loaded = TorchExecutable(config, model, target, threads_for(model.parameters, threads))
    loaded.enter()
    try:
        loaded.warm_up(config)
    except LoadError as error:
        loaded.close()
        raise LoadError(f"{version.folder}: {error}") from error
    return loaded


def runner(load: Load, slots: SlotMemory) -> Runner:
    """A warm copy of a model for a device process. Raises LoadError."""
    config, device = load.config, torch.device(load.device)
    use_precision(config.precision)
    loaded = executable(config, load.found, load.device, load.threads)
    if device.type == "cuda" and config.optimization.cuda.graphs and loaded.capturable:
        try:
            return SlotRunner(config, loaded, CudaDevice(device), slots)
        except Exception as error:  # noqa: BLE001  what a model does under capture may fail in any way
            log.warning("%s runs without CUDA graphs: %s: %s", load.found.folder, type(error).__name__, error)
    return PlainRunner(config, loaded, slots)


def text_stepper(config: ModelConfig, version: FoundVersion, threads: int) -> TorchStepper:
    """A warm language model on the CPU. Raises LoadError."""
    model = load(config, version.folder, torch.device("cpu"))
    stepper = TorchStepper(model, threads_for(model.parameters, threads))
    try:
        stepper.warm_up()
    except LoadError as error:
        stepper.close()
        raise LoadError(f"{version.folder}: {error}") from error
    return stepper
