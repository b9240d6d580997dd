from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.rig import FaultRig


@pytest.fixture(scope="module")
def shared_rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultRig]:
    """One gateway a module, with the module's CONFIG, and the backends it NAMES (a and b without)."""
    names = getattr(request.module, "NAMES", ("a", "b"))
    found = FaultRig(tmp_path_factory.mktemp("rig"), request.module.CONFIG, names)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def rig(shared_rig: FaultRig) -> Iterator[FaultRig]:
    """The module's gateway with nothing in flight; afterwards nothing may be left over."""
    shared_rig.fresh()
    yield shared_rig
    shared_rig.clean()
