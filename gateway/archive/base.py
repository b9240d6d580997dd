"""What an archive is, whatever holds its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.state.base import DecisionRecord

HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True, order=True)
class HourFile:
    """One file of the archive."""

    hour: int
    """Hours since the epoch."""
    route: str
    path: str


def attached(record: DecisionRecord) -> int:
    """Rewards and shadow responses of a decision. The number only falls when they are forgotten."""
    return len(record.rewards) + len(record.shadows)


class HourWriter(Protocol):
    """Writes one hour: new rows, and those of the last file that are not among them."""

    def add(self, records: Sequence[DecisionRecord]) -> None:
        """Write records, ordered by decision, after those of earlier calls."""
        ...

    def commit(self) -> None:
        """Make the file appear."""
        ...

    def abort(self) -> None:
        """Leave the last file as it is."""
        ...


class Archive(Protocol):
    """Files of the record, one for each route and hour.

    All methods block. They raise OSError, and ValueError for a damaged file.
    """

    def exists(self) -> bool:
        """Whether anything was archived there."""
        ...

    def files(self, route: str | None, since: float | None, until: float | None) -> list[HourFile]:
        """The files with decisions of ``route`` (None: of all) from ``since`` to ``until``, oldest first."""
        ...

    def read(self, file: HourFile) -> Iterator[list[DecisionRecord]]:
        """The records of a file, ordered by decision."""
        ...

    def is_final(self, file: HourFile) -> bool:
        """Whether the file was written after the last window of its decisions."""
        ...

    def metric_names(self, files: Sequence[HourFile]) -> list[str]:
        """Metrics with a reward in ``files``, in alphabetical order."""
        ...

    def writer(self, route: str, hour: int, *, final: bool) -> HourWriter:
        """A writer of the file of one hour; `HourWriter.commit` makes it appear."""
        ...
