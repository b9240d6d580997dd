"""What is known of one model: its loaded versions, its faults, and the change that runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from backends.repository import FoundModel
from backends.served import Served


@dataclass(slots=True)
class Model:
    """What is known of one model. `versions` are those loaded, `faults` what the others failed of."""

    name: str
    found: FoundModel | None = None
    """What was loaded last, or should have been; None: it was unloaded."""
    rechecked: bool = False
    """Whether the load that runs repeats one that failed; it is not told as one."""
    versions: dict[str, Served] = field(default_factory=dict)
    """Ascending by number."""
    faults: dict[str, str] = field(default_factory=dict)
    """By version; "" is the model as a whole."""
    loading: dict[str, float] = field(default_factory=dict)
    """The version being loaded, and when that began by `time.monotonic`; "": it waits for other models."""
    loader: asyncio.Task[None] | None = None
    """The task that loads it."""
    unloads: int = 0
    """How often it was unloaded: loads that were asked for before that are given up."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def progress(self) -> dict[str, str]:
        """By version, the state of a load."""
        if self.rechecked:
            return {}
        return {
            version: f"loading for {time.monotonic() - since:.0f} s"
            if version
            else "waiting for other models"
            for version, since in self.loading.items()
        }

    def all_faults(self) -> dict[str, str]:
        """Those of versions that failed after they had been loaded, and `faults`, which are later."""
        broken = {version: served.fault for version, served in self.versions.items() if served.fault}
        return broken | self.faults

    @property
    def newest(self) -> Served | None:
        return next(reversed(self.versions.values()), None)


class Update:
    """The change of one model: its versions take over together, or one by one once one of them is slow."""

    def __init__(self, model: Model, retired: list[Served]) -> None:
        self.model = model
        self.fresh: dict[str, Served] = {}
        """Loaded, and not served yet."""
        self.faults: dict[str, str] = {}
        self._retired = retired
        self._overtaking = False

    def add(self, served: Served) -> None:
        """``served`` is loaded."""
        self.fresh[served.version] = served
        if self._overtaking:
            self.publish()

    def overtake(self) -> None:
        """One version takes long; the others are served without it."""
        self._overtaking = True
        self.publish()

    def publish(self) -> None:
        """Serves what is loaded."""
        versions = self.model.versions
        self._retired += [versions[version] for version in self.fresh if version in versions]
        self.model.versions = dict(sorted((versions | self.fresh).items(), key=lambda item: int(item[0])))
        self.fresh = {}

    def keep(self, wanted: Iterable[str]) -> None:
        """Retires the versions that are not ``wanted``."""
        for version in self.model.versions.keys() - set(wanted):
            self._retired.append(self.model.versions.pop(version))
