from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.rig import Rig


@pytest.fixture(scope="module")
def shared_rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One gateway a module; a module may set RIG to options of `Rig`."""
    options: dict[str, Any] = getattr(request.module, "RIG", {})
    folder: Path = tmp_path_factory.mktemp("rig")
    found = Rig(folder, **options)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The module's gateway with nothing in flight; afterwards nothing may be left over."""
    shared_rig.fresh()
    yield shared_rig
    shared_rig.clean()
