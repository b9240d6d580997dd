"""Sums of more units than memory holds, for an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from io import FileIO
from tempfile import TemporaryFile, gettempdir
from typing import Final
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from policies.offpolicy.sums import Array, Units, UnitsInMemory

MAX_UNITS: Final = 1_000_000
"""Units in memory; above it, all of them go to a file."""
PARTS: Final = 64
"""By the remainder of a unit, so that all sums of the unit meet when a part is read."""


class SpilledUnits:
    """`policies.offpolicy.sums.UnitSums` of p numbers each. Methods raise OSError.

    The file is below ``TMPDIR`` and has no name: its space is free once the process has ended, or was killed.
    """

    def __init__(self, p: int, most: int = MAX_UNITS) -> None:
        self._p = p
        self._most = most
        self._held = UnitsInMemory(p)
        self._spills: list[NDArray[np.intp]] = []
        """Rows of the file before each part of a spill, and before its end; (PARTS + 1,)."""

    def add(self, unit: Units, sums: Array) -> None:
        """Add rows (n, p) of units (n,)."""
        self._held.add(unit, sums)
        if len(self._held.keys) > self._most:
            self._spill()

    def parts(self) -> Iterator[tuple[Units, Array]]:
        """All units with their sums, piece by piece."""
        if not self._spills:
            yield from self._held.parts()
            return
        self._spill()
        for part in range(PARTS):
            yield from self._read(part).parts()

    def _spill(self) -> None:
        held, self._held = self._held, UnitsInMemory(self._p)
        rows = np.column_stack([held.keys, held.sums.view(np.uint64)])
        remainder = (held.keys % np.uint64(PARTS)).astype(np.intp)
        try:
            for part in range(PARTS):
                rest = rows[remainder == part].tobytes()
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise OSError(
                f"the sums of more than {self._most} sticky units do not fit below {gettempdir()}: "
                f"{error.strerror}; set TMPDIR to a folder with more space"
            ) from error
        sizes = np.bincount(remainder, minlength=PARTS)
        before = self._spills[-1][-1] if self._spills else 0
        self._spills.append(before + np.concatenate([[0], np.cumsum(sizes)]))

    def _read(self, part: int) -> UnitsInMemory:
        found, size = UnitsInMemory(self._p), 8 * (1 + self._p)
        for places in self._spills:
            begin, end = places[part : part + 2].tolist()
            self._file.seek(begin * size)
            rows = np.frombuffer(self._file.read((end - begin) * size), np.uint64).reshape(-1, 1 + self._p)
            found.add(rows[:, 0], np.ascontiguousarray(rows[:, 1:]).view(np.float64))
        self._file.seek(0, 2)
        return found

    @cached_property
    def _file(self) -> FileIO:
        file = TemporaryFile(buffering=0)  # noqa: SIM115
        finalize(self, file.close)
        return file
