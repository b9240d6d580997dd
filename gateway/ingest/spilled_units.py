"""Sums of more units than memory holds, for an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from policies.offpolicy.sums import Array, Units, UnitsInMemory

MAX_UNITS: Final = 1_000_000
"""Units in memory; above it, all of them go to files."""
PARTS: Final = 64
"""Files, each with the units of one remainder, so that all sums of a unit meet when the file is read."""
BLOCK_ROWS: Final = 1 << 16


class SpilledUnits:
    """`policies.offpolicy.sums.UnitSums` of p numbers each in a folder of its own. Methods raise OSError."""

    def __init__(self, p: int, folder: Path, most: int = MAX_UNITS) -> None:
        self._p = p
        folder.mkdir()
        self._folder = folder
        self._most = most
        self._held = UnitsInMemory(p)

    def add(self, unit: Units, sums: Array) -> None:
        """Add rows (n, p) of units (n,)."""
        self._held.add(unit, sums)
        if len(self._held.keys) > self._most:
            self._spill()

    def parts(self) -> Iterator[tuple[Units, Array]]:
        """All units with their sums, piece by piece."""
        paths = sorted(self._folder.iterdir())
        if not paths:
            yield from self._held.parts()
            return
        self._spill()
        for path in paths:
            yield from self._read(path).parts()

    def _spill(self) -> None:
        held, self._held = self._held, UnitsInMemory(self._p)
        rows = np.column_stack([held.keys, held.sums.view(np.uint64)])
        remainder = held.keys % np.uint64(PARTS)
        for part in range(PARTS):
            with (self._folder / f"{part:02}").open("ab") as file:
                file.write(rows[remainder == part].tobytes())

    def _read(self, path: Path) -> UnitsInMemory:
        found, size = UnitsInMemory(self._p), 8 * (1 + self._p)
        with path.open("rb") as file:
            while block := file.read(BLOCK_ROWS * size):
                rows = np.frombuffer(block, np.uint64).reshape(-1, 1 + self._p)
                found.add(rows[:, 0], np.ascontiguousarray(rows[:, 1:]).view(np.float64))
        return found
