"""Small real models, written as a user would write them, for what `digits` can't show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ECHO = """
class Model:
    def __call__(self, x):
        return {"y": x}
"""

SLEEPER = """
import time

class Model:
    def __call__(self, seconds):
        time.sleep(float(seconds.max()))
        return {"slept": seconds.clone()}
"""

HANGER = """
import time

class Model:
    def __call__(self, x):
        time.sleep(1000 if x.any() else 0)
        return x
"""

PICKY = """
from backends import InvalidInput

class Model:
    def __call__(self, x):
        if x.isnan().any():
            raise InvalidInput("x has a NaN; send numbers")
        if (x < 0).any():
            raise RuntimeError("secret detail: negative")
        return x * 2
"""

SCALED = """
import torch

class Model(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.factor = factor

    def forward(self, x):
        assert not self.training
        return (x * self.weight * self.factor,)
"""


def write_model(
    root: Path,
    name: str,
    code: str | None,
    inputs: dict[str, tuple[str, list[int]]],
    outputs: dict[str, tuple[str, list[int]]],
    /,
    *,
    version: int = 1,
    **config: Any,
) -> Path:
    """A version of a model under ``root``; its folder. ``code`` None writes no `model.py`."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    if code is not None:
        (folder / "model.py").write_text(code)
    document = {
        "name": name,
        "platform": "pytorch_module",
        "max_batch_size": 8,
        "input": [_tensor(*item) for item in inputs.items()],
        "output": [_tensor(*item) for item in outputs.items()],
        **config,
    }
    (root / name / "config.json").write_text(json.dumps(document))
    return folder


def _tensor(name: str, spec: tuple[str, list[int]]) -> dict[str, Any]:
    return {"name": name, "data_type": spec[0], "dims": spec[1]}


def write_echo(root: Path, datatype: str, **config: Any) -> Path:
    """Model `echo_DATATYPE`: gives back the rows that it gets, of two elements each."""
    name = f"echo_{datatype}"
    return write_model(root, name, ECHO, {"x": (datatype, [2])}, {"y": (datatype, [2])}, **config)


def write_sleeper(root: Path, **config: Any) -> Path:
    """Model `sleeper`: sleeps the greatest of the seconds in its batch."""
    spec = {"seconds": ("FP32", [1])}
    return write_model(root, "sleeper", SLEEPER, spec, {"slept": ("FP32", [1])}, **config)


def write_picky(root: Path, **config: Any) -> Path:
    """Model `picky`: doubles; refuses NaN, breaks on negative numbers."""
    return write_model(root, "picky", PICKY, {"x": ("FP32", [1])}, {"y": ("FP32", [1])}, **config)
