from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import Backend


@pytest.fixture(scope="session", autouse=True)
def open_files() -> None:
    """Thousands of connections need as many open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[list[Backend]]:
    """Three that can be killed and restarted."""
    found = [Backend(tmp_path, name) for name in ("a", "b", "c")]
    yield found
    for backend in found:
        backend.child.stop()
