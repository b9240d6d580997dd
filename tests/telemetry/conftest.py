from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.faults.rig import FaultRig
from tests.telemetry.collector import Collector, collector
from tests.telemetry.traced import CONFIG


@pytest.fixture(scope="module")
def to() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture(scope="module")
def shared_rig(to: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    rig = FaultRig(tmp_path_factory.mktemp("rig"), CONFIG.replace("@COLLECTOR@", str(to.port)))
    rig.start()
    yield rig
    rig.stop()


@pytest.fixture
def rig(shared_rig: FaultRig, to: Collector) -> Iterator[FaultRig]:
    """The gateway with nothing in flight and nothing delivered; afterwards nothing may be left over."""
    shared_rig.fresh()
    empty(shared_rig, to)
    yield shared_rig
    shared_rig.clean()


def empty(rig: FaultRig, to: Collector) -> None:
    exporter = rig.gateway.in_force.traces.exporter
    assert exporter is not None
    rig.until(lambda: not exporter.waiting)
    to.bodies.clear()


@pytest.fixture
def settled(rig: FaultRig, to: Collector) -> Iterator[Callable[..., None]]:
    """Puts other options of telemetry.traces in force, for this test alone."""
    text = CONFIG.replace("@COLLECTOR@", str(to.port))

    def edit(**options: object) -> None:
        for key, value in options.items():
            text_of = f"{key}: {str(value).lower() if isinstance(value, bool) else value}"
            known = re.search(rf"{key}: [^,}}]+", now[0])
            now[0] = (
                now[0].replace(known[0], text_of) if known else now[0].replace("flush", f"{text_of}, flush")
            )
        rig.edit(now[0])

    now = [text]
    yield edit
    rig.edit(text)
