"""The one call by which the rest of the server has a version loaded."""

from __future__ import annotations

import torch

from backends.config import ModelConfig
from backends.errors import LoadError
from backends.repository import FoundVersion
from backends.runtime.device import place, resolve, threads_for
from backends.runtime.executable import TorchExecutable
from backends.runtime.loading import load


def devices(config: ModelConfig, device: str) -> list[str]:
    """Where each instance of a model goes. Raises LoadError."""
    return [str(one) for one in place(config.instance_group, resolve(device))]


def executable(config: ModelConfig, version: FoundVersion, device: str, threads: int) -> TorchExecutable:
    """A copy of ``version`` on ``device``, warm. To be called in the thread that will run it.

    ``threads`` is for the CPU; 0 chooses by the model's size. Raises LoadError.
    """
    target = torch.device(device)
    callee, parameters = load(config, version.folder, target)
    # OpenMP keeps the number of threads per calling thread, so each instance has its own.
    torch.set_num_threads(threads_for(parameters, threads))
    loaded = TorchExecutable(config, callee, target)
    try:
        loaded.warm_up(config)
    except LoadError as error:
        raise LoadError(f"{version.folder}: {error}") from error
    return loaded
