"""The reference models, trained once per session, and a server over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import train
from tests.support.models import reference_models
from tests.support.processes import ModelServerProcess


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> train.Summary:
    return reference_models(tmp_path_factory)


@pytest.fixture(scope="session")
def models(trained: train.Summary) -> Path:
    return trained.folder.parent


@pytest.fixture(scope="session", params=["1", "2"], ids=["one process", "API servers"])
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[ModelServerProcess]:
    """Shared: tests leave it as they found it."""
    with ModelServerProcess(models, "--api-server-count", request.param) as process:
        process.wait_ready()
        yield process
        assert process.stop() == 0, process.log
        assert "Traceback" not in process.log
