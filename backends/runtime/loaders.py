"""Loaders of formats other than a class or an exported program: one function each, listed in `LOADERS`.

A loader takes the configuration, the version's folder and the device, and returns what can be called with
the inputs by name (CPU tensors; numpy object arrays for BYTES). To add a format, write one, list it here,
and add its name to `backends.config.PLATFORMS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from backends.config import ModelConfig
from backends.errors import LoadError
from backends.runtime.loaded import Loaded

Loader = Callable[[ModelConfig, Path, torch.device], Loaded]

SKLEARN_METHODS: Final = ("predict", "predict_proba", "decision_function", "transform")


def file_of(folder: Path, name: str, platform: str, maker: str) -> Path:
    """``folder/name``. Raises LoadError that says who writes such a file."""
    path = folder / name
    if not path.is_file():
        raise LoadError(f"{path} is missing; platform {platform} needs it, as {maker} writes it")
    return path


def library(name: str, platform: str) -> Any:
    """The module ``name``. Raises LoadError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LoadError(f"platform {platform} needs {error.name}; pip install 'turnout[formats]'") from None


def by_position(config: ModelConfig, call: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    """Calls with the inputs in the order of the configuration."""
    names = [tensor.name for tensor in config.input]
    return lambda inputs: call(*[inputs[name] for name in names])


def size(model: Any) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def torchscript(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    """`model.pt`, as `torch.jit.save` writes it. Raises LoadError."""
    path = file_of(folder, "model.pt", "torchscript", "torch.jit.save")
    module = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    return Loaded(by_position(config, module), size(module), network=True)


def aot(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    """`model.pt2`, a package of `torch._inductor.aoti_compile_and_package`. Raises LoadError."""
    path = file_of(folder, "model.pt2", "pytorch_aot", "torch._inductor.aoti_compile_and_package")
    return Loaded(by_position(config, torch._inductor.aoti_load_package(str(path))), network=True)


def onnx(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    """`model.onnx`, run by ONNX Runtime; inputs and outputs go by their names in the graph. Raises LoadError."""
    path = file_of(folder, "model.onnx", "onnx", "torch.onnx.export")
    runtime = library("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    session = runtime.InferenceSession(str(path), options, providers=[provider])
    given = {one.name for one in session.get_outputs()}
    names = [tensor.name for tensor in config.output]
    if missing := [name for name in names if name not in given]:
        raise LoadError(f"{path} has no output {missing[0]!r}; it has {', '.join(sorted(given))}")

    def call(inputs: dict[str, Any]) -> list[np.ndarray]:
        return session.run(names, {name: _numpy(value) for name, value in inputs.items()})  # type: ignore[no-any-return]

    return Loaded(call, network=True)


def sklearn(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    """`model.skops`, an estimator; each output is named after the method that gives it. Raises LoadError."""
    path = file_of(folder, "model.skops", "sklearn", "skops.io.dump")
    skops = library("skops.io", "sklearn")
    untrusted = skops.get_untrusted_types(file=path)
    if untrusted:
        raise LoadError(f"{path} holds types that skops does not trust: {', '.join(untrusted)}")
    estimator = skops.load(path, trusted=[])
    (source,) = _only(config.input, path, "input")
    calls = []
    for tensor in config.output:
        if tensor.name not in SKLEARN_METHODS or not hasattr(estimator, tensor.name):
            raise LoadError(
                f"{path}: the estimator has no method {tensor.name!r}; name outputs after one of "
                f"{', '.join(SKLEARN_METHODS)}"
            )
        calls.append((getattr(estimator, tensor.name), tensor.datatype.dtype))

    def call(inputs: dict[str, Any]) -> list[np.ndarray]:
        rows = _numpy(inputs[source.name])
        return [np.asarray(method(rows)).astype(dtype, copy=False) for method, dtype in calls]

    return Loaded(call)


def xgboost(config: ModelConfig, folder: Path, device: torch.device) -> Loaded:
    """`model.ubj` (or `model.json`), a booster; its prediction is the one output. Raises LoadError."""
    path = folder / "model.json"
    if not path.is_file():
        path = file_of(folder, "model.ubj", "xgboost", "Booster.save_model")
    library_ = library("xgboost", "xgboost")
    booster = library_.Booster(model_file=str(path))
    booster.set_param({"nthread": 1})
    (source,), (target,) = _only(config.input, path, "input"), _only(config.output, path, "output")

    def call(inputs: dict[str, Any]) -> np.ndarray:
        predicted = booster.inplace_predict(_numpy(inputs[source.name]))
        return np.asarray(predicted).astype(target.datatype.dtype, copy=False)

    return Loaded(call)


def _only(tensors: Any, path: Path, what: str) -> Any:
    if len(tensors) != 1:
        raise LoadError(f"{path}: config.json lists {len(tensors)} of {what}; this platform has one")
    return tensors


def _numpy(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.numpy(force=True)


LOADERS: Final[dict[str, Loader]] = {
    "torchscript": torchscript,
    "pytorch_aot": aot,
    "onnx": onnx,
    "sklearn": sklearn,
    "xgboost": xgboost,
}
