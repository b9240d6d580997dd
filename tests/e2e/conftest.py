"""The bundled server with the reference models, once for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends import train
from backends.reference import digits
from tests.backends.process import ServerProcess


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    train.main(models)
    with ServerProcess(models) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def held_out() -> digits.Digits:
    return digits.held_out()
