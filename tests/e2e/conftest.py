"""The bundled server with the reference models, once for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends.reference import digits
from tests.support.models import reference_models
from tests.support.processes import ModelServerProcess


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    with ModelServerProcess(reference_models(tmp_path_factory).folder.parent) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def held_out() -> digits.Digits:
    return digits.held_out()
