"""Loaders: from a version's folder to a callable model."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch.export.passes import move_to_device_pass

from backends.config import ModelConfig
from backends.errors import LoadError
from backends.runtime.loaded import Loaded, forget
from backends.runtime.loaders import LOADERS, Loader, by_position, file_of, size

log = logging.getLogger("turnout.backend")

_COUNT = itertools.count()
_WEIGHTS = frozenset({".bin", ".ckpt", ".pt", ".pth", ".safetensors"})
"""Endings of files in which people keep weights."""


def load(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    """The version in ``folder`` on ``device``. Raises LoadError."""
    try:
        return _LOADERS[config.platform](config, folder, device)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{folder} can't be loaded: {type(error).__name__}: {error}") from error


def _load_module(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    path = folder / "model.py"
    module = _import(path)
    try:
        return _instantiate(config, path, module, device)
    except BaseException:
        forget(module.__name__)
        raise


def _instantiate(config: ModelConfig, path: Path, module: ModuleType, device: torch.device) -> Loaded:
    model_class = getattr(module, "Model", None)
    if not callable(model_class):
        raise LoadError(f"{path} has no class Model; define one")
    model = _construct(path, model_class, config.parameters)
    if not isinstance(model, torch.nn.Module):
        if not callable(model):
            raise LoadError(f"{path}: Model can't be called; give it __call__, or make it a torch.nn.Module")
        return Loaded(lambda inputs: model(**inputs), instance=model, module=module.__name__)
    weights = path.parent / "model.safetensors"
    if weights.exists():
        _fill(model, weights)
    elif unread := [file.name for file in sorted(path.parent.iterdir()) if file.suffix in _WEIGHTS]:
        log.warning(
            "%s is missing, and only the class Model itself can read %s: save the weights with "
            "safetensors.torch.save_model, unless it does",
            weights,
            ", ".join(unread),
        )
    model.eval().requires_grad_(False).to(device)
    return Loaded(lambda inputs: model(**inputs), size(model), True, model, module.__name__)


def _import(path: Path) -> ModuleType:
    """The module in ``path``, as a package of its own, so that it can say ``from .helpers import …``.

    Every load makes a new one: versions and reloads share nothing.
    """
    if not path.is_file():
        raise LoadError(f"{path} is missing; platform pytorch_module needs it")
    name = f"turnout_model_{next(_COUNT)}"
    loader = _Source(name, str(path))
    spec = importlib.util.spec_from_file_location(
        name, path, loader=loader, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        forget(name)
        raise LoadError(f"{path}: {type(error).__name__}: {error}") from error
    return module


class _Source(SourceFileLoader):
    """Neither reads nor writes bytecode, which is told from an edited file by its second and size only."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError


def _construct(path: Path, model_class: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    try:
        return model_class(**parameters)
    except BaseException as error:
        raise LoadError(f"{path}: Model(**parameters) raised {type(error).__name__}: {error}") from error


def _fill(model: torch.nn.Module, weights: Path) -> None:
    try:
        load_model(model, weights, strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise LoadError(f"{weights} does not fit the class Model: {error}") from error


def _load_export(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    path = file_of(folder, "model.pt2", "pytorch_export", "torch.export.save")
    try:
        program = torch.export.load(path)
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        module = program.module()
    except Exception as error:
        raise LoadError(f"{path} can't be loaded: {type(error).__name__}: {error}") from error
    return Loaded(by_position(config, module), size(program), True)


_LOADERS: dict[str, Loader] = {
    **LOADERS,
    "pytorch_module": _load_module,
    "pytorch_export": _load_export,
    "pytorch_text": _load_module,
}
