"""A scene for the tests of alarms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.state.sqlite import SqliteStore
from tests.loops.scene import Scene
from tests.support.in_force import put_in_force


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = SqliteStore(str(tmp_path / "turnout.db"))
    await store.open()
    made = Scene(store)
    await made.allocations.start()
    put_in_force(made.document, made.allocations)
    await made.allocations.step()
    yield made
    await store.close()
