"""An evaluation with more units than memory holds gives the same figures, and holds few of them at a time."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from gateway.ingest.spilled_units import SpilledUnits
from policies.offpolicy import evaluation
from policies.offpolicy.evaluation import Evaluation
from policies.offpolicy.sums import Logged, UnitsInMemory


@pytest.mark.parametrize("most", [500, 100_000])
def test_figures_are_those_of_memory(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CHUNK_ROWS", 700)
    rng = np.random.default_rng(3)
    units = rng.integers(0, 2**64, 4000, dtype=np.uint64)[rng.integers(0, 4000, 20_000)].tolist()
    rows = [Logged(("a", "b")[u % 2], 0.5, float(rng.random() < 0.4 + 0.2 * (u % 2)), u) for u in units]
    made = []
    for place in (UnitsInMemory, partial(SpilledUnits, most=most)):
        found = Evaluation({"a": 0.3, "b": 0.7}, units=place)
        found.add(rows)
        made.append(found.report())
    memory, files = made
    assert files.units == memory.units == len(set(units))
    assert files.refusal is None
    for one, other in zip(files.estimates, memory.estimates, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-12)
        assert one.error == pytest.approx(other.error, rel=1e-9)


def test_no_piece_has_more_than_its_part() -> None:
    places = SpilledUnits(2, most=1000)
    for start in range(0, 64_000, 500):
        keys = np.arange(start, start + 500, dtype=np.uint64)
        places.add(keys, np.ones((500, 2)))
        places.add(keys[::2], np.ones((250, 2)))
    pieces = list(places.parts())
    assert max(len(keys) for keys, _ in pieces) == 1000
    assert sorted(key for keys, _ in pieces for key in keys.tolist()) == list(range(64_000))
    assert {(int(key) % 2, *each) for keys, sums in pieces for key, each in zip(keys, sums, strict=True)} == {
        (0, 2.0, 2.0),
        (1, 1.0, 1.0),
    }


def test_a_folder_without_space_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ingest.spilled_units.TemporaryFile", partial(open, "/dev/full", "r+b"))
    places = SpilledUnits(1, most=1)
    with pytest.raises(OSError, match="No space left on device; set TMPDIR to a folder with more space"):
        places.add(np.arange(2, dtype=np.uint64), np.ones((2, 1)))


def test_units_in_memory_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    places = SpilledUnits(1)
    places.add(np.arange(2, dtype=np.uint64), np.ones((2, 1)))
    assert len(list(places.parts())) == 1
    places = SpilledUnits(1, most=1)
    with pytest.raises(OSError, match="do not fit below /nowhere: No such file"):
        places.add(np.arange(2, dtype=np.uint64), np.ones((2, 1)))
