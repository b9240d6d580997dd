"""Models that are trained once per run of pytest, whatever the number of its processes."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from backends import train, train_text

FEW_STEPS = 25
"""A tenth of what the reference language model is trained for: half a minute of computing less."""


T = TypeVar("T")


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all processes of this run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def _once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What ``make`` returned for the folder ``name``, which it filled: in this process or in another one."""
    shared = shared_folder(tmp_path_factory)
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        summary = shared / f"{name}.pickle"
        if not summary.exists():
            (shared / name).mkdir()
            summary.write_bytes(pickle.dumps(make(shared / name)))
        found: T = pickle.loads(summary.read_bytes())
    return found


def reference_models(tmp_path_factory: pytest.TempPathFactory) -> train.Summary:
    """Shared: tests leave the folder as they found it."""
    return _once(tmp_path_factory, "reference", train.main)


def reference_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bytes-lm`, trained for `FEW_STEPS`. Shared: tests leave it as they found it."""

    def make(folder: Path) -> Path:
        trained = train_text.main(folder, steps=FEW_STEPS)
        assert all(one.bits_per_byte < 6 for one in trained), "the frequencies of bytes at least"
        return folder

    return _once(tmp_path_factory, "texts", make)


def with_texts(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """``folder``, in which only `digits` is left to train."""
    shutil.copytree(reference_texts(tmp_path_factory), folder, dirs_exist_ok=True)
    return folder
