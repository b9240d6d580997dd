"""Small real models, written as a user would write them, for what `digits` can't show."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

ECHO = """
class Model:
    def __call__(self, x):
        return {"y": x}
"""

SLEEPER = """
import pathlib, time

class Model:
    def __init__(self, gate=None):
        self.gate = gate and pathlib.Path(gate)

    def __call__(self, seconds):
        if self.gate and seconds.any():
            (self.gate / "begun").touch()
        while seconds.min() < 0 and not (self.gate / "open").exists():
            time.sleep(0.01)
        time.sleep(max(0.0, float(seconds.max())))
        return {"slept": seconds.clone()}
"""
HELD = -1.0
"""What `sleeper` is asked for to wait at its `Gate`."""


class Gate:
    """What a batch of `HELD` waits for, and how a test learns that a batch runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def close(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def open(self) -> None:
        (self.folder / "open").touch()

    async def begun(self) -> None:
        """Until a batch with other numbers than 0 runs."""
        async with asyncio.timeout(60):
            while not (self.folder / "begun").exists():
                await asyncio.sleep(0.01)


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


def write_sleeper(root: Path, gate: Gate | None = None, **config: Any) -> Path:
    """Model `sleeper`: sleeps the greatest of the seconds in its batch, or waits at the gate."""
    spec = {"seconds": ("FP32", [1])}
    if gate is not None:
        config["parameters"] = {"gate": str(gate.folder)}
    return write_model(root, "sleeper", SLEEPER, spec, {"slept": ("FP32", [1])}, **config)


def write_picky(root: Path, **config: Any) -> Path:
    """Model `picky`: doubles; refuses NaN, breaks on negative numbers."""
    return write_model(root, "picky", PICKY, {"x": ("FP32", [1])}, {"y": ("FP32", [1])}, **config)
