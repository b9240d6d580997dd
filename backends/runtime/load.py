"""The one call by which the rest of the server has a version loaded."""

from __future__ import annotations

import torch

from backends.config import ModelConfig
from backends.errors import LoadError
from backends.repository import FoundVersion
from backends.runtime.device import place, resolve, threads_for
from backends.runtime.executable import TorchExecutable
from backends.runtime.loading import load
from backends.text.stepper import TorchStepper


def devices(config: ModelConfig, device: str) -> list[str]:
    """Where each instance of a model goes. Raises LoadError."""
    return [str(one) for one in place(config.instance_group, resolve(device))]


def executable(config: ModelConfig, version: FoundVersion, device: str, threads: int) -> TorchExecutable:
    """A warm copy of ``version`` on ``device``, with ``threads`` CPU threads (0: by the model's size).

    Raises LoadError.
    """
    target = torch.device(device)
    model = load(config, version.folder, target)
    loaded = TorchExecutable(config, model, target, threads_for(model.parameters, threads))
    loaded.enter()
    try:
        loaded.warm_up(config)
    except LoadError as error:
        loaded.close()
        raise LoadError(f"{version.folder}: {error}") from error
    return loaded


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
