"""Which device a model runs on."""

from __future__ import annotations

import os

import torch

from backends.config import InstanceGroup
from backends.errors import LoadError

SMALL_MODEL = 1_000_000
"""Parameters up to which one CPU thread is faster than several: sharing out the work costs more than it."""


def resolve(wish: str) -> torch.device:
    """The device for ``wish``: ``auto`` (CUDA if there is one, else CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises LoadError when there is no such device.
    """
    if wish == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise LoadError(f"device {wish!r} is unknown; write auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise LoadError(f"device {wish!r} is not served; write auto, cpu, cuda or cuda:N")
    if (device.index or 0) >= torch.cuda.device_count():
        raise LoadError(
            f"device {wish!r} is not there ({torch.cuda.device_count()} CUDA devices are); write auto or cpu"
        )
    return torch.device("cuda", device.index or 0)


def available(wish: str) -> list[torch.device]:
    """The devices of KIND_AUTO instances: every GPU for ``auto``, else the one that is named. Raises LoadError."""
    if wish == "auto" and torch.cuda.is_available():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [resolve(wish)]


def place(groups: tuple[InstanceGroup, ...], available: list[torch.device]) -> list[torch.device]:
    """A device for each instance of ``groups``; KIND_AUTO has its count on each of ``available``.

    Raises LoadError.
    """
    devices: list[torch.device] = []
    for group in groups:
        devices += [device for device in _devices(group, available) for _ in range(group.count)]
    return devices


def _devices(group: InstanceGroup, available: list[torch.device]) -> list[torch.device]:
    if group.kind == "KIND_CPU":
        return [torch.device("cpu")]
    if group.gpus and (group.kind == "KIND_GPU" or available[0].type == "cuda"):
        return [resolve(f"cuda:{index}") for index in group.gpus]
    if group.kind == "KIND_GPU" and available[0].type == "cpu":
        return [resolve("cuda:0")]  # which says that there is none
    return available


def threads_for(parameters: int, wish: int) -> int:
    """CPU threads for a model of so many ``parameters``; ``wish`` (0: none) wins."""
    return wish or (1 if parameters <= SMALL_MODEL else _cores())


def _cores() -> int:
    """Cores that this process may use: a container or `taskset` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
