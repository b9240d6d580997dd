"""The reference models, trained once per run of pytest, whatever the number of its processes."""

from __future__ import annotations

import fcntl
import os
import pickle

import pytest

from backends import train


def reference_models(tmp_path_factory: pytest.TempPathFactory) -> train.Summary:
    """Shared: tests leave the folder as they found it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        summary = shared / "reference.pickle"
        if not summary.exists():
            (shared / "reference").mkdir()
            summary.write_bytes(pickle.dumps(train.main(shared / "reference")))
        found: train.Summary = pickle.loads(summary.read_bytes())
    return found
