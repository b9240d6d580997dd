"""The models that are served, and how they come and go: the new version is up before the old one ends."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from backends import memory
from backends.config import NAME, ModelConfig
from backends.errors import LoadError, NotFound, Unavailable
from backends.repository import FoundModel, scan, scan_model
from backends.request_log import RequestLog
from backends.served import Served

log = logging.getLogger("turnout.backend")

_NAME = re.compile(NAME)
WATCH_INTERVAL_S: Final = 0.1


@dataclass(slots=True)
class Model:
    """What is known of one model. `versions` are those loaded, `faults` what the others failed of."""

    name: str
    config: ModelConfig | None = None
    versions: dict[str, Served] = field(default_factory=dict)
    """Ascending by number."""
    faults: dict[str, str] = field(default_factory=dict)
    """By version; "" is the model as a whole."""

    def all_faults(self) -> dict[str, str]:
        """`faults`, and those of versions that failed after they had been loaded."""
        broken = {version: served.fault for version, served in self.versions.items() if served.fault}
        return self.faults | broken

    @property
    def newest(self) -> Served | None:
        return next(reversed(self.versions.values()), None)


class Registry:
    """All models. Its methods belong to the event loop, which never sees a half-made change."""

    def __init__(
        self,
        root: Path,
        device: str = "auto",
        threads: int = 0,
        kinds: Mapping[str, type[Served]] = MappingProxyType({}),
    ) -> None:
        """``kinds``: by platform, how a version is served if not in batches of rows."""
        self.models: dict[str, Model] = {}
        self.loading = True
        """Until the first look at the repository is done."""
        self._root = root
        self._device = device
        self._threads = threads
        self._kinds = kinds
        self.request_log: RequestLog | None = None
        """Where versions loaded from now on write their requests."""
        self._changing = asyncio.Lock()
        self._ending: set[Served] = set()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def faults(self) -> list[str]:
        """Why models or versions that should be served are not, one line each."""
        return [fault for model in self.models.values() for fault in model.all_faults().values()]

    def find(self, name: str, version: str = "") -> Served:
        """The version to answer; "" is the newest loaded. Raises NotFound, Unavailable."""
        model = self.models.get(name)
        if model is not None:
            served = model.versions.get(version) if version else model.newest
            if served is not None:
                if served.fault:
                    raise Unavailable(f"model {name!r} is no longer served: {served.fault}")
                return served
        raise self._absent(model, name, version)

    def ready(self, name: str) -> bool | None:
        """Whether the model ``name`` is served; None if there is no such model."""
        try:
            self.find(name)
        except Unavailable:
            return False
        except NotFound:
            return None
        return True

    def _absent(self, model: Model | None, name: str, version: str) -> NotFound | Unavailable:
        if self.loading and (model is None or not (model.versions or model.faults)):
            return Unavailable("the models are still being loaded; try again as Retry-After says")
        if model is None:
            return NotFound(f"there is no model {name!r}; there are {', '.join(self.models) or 'none'}")
        if model.faults and (not version or version in model.faults or "" in model.faults):
            return Unavailable(
                f"model {name!r} version {version or 'any'} could not be loaded; see the repository index"
            )
        if not model.versions:
            return Unavailable(f"model {name!r} is not loaded; load it first")
        return NotFound(f"model {name!r} has no version {version!r}; it has {', '.join(model.versions)}")

    async def load_all(self) -> None:
        """Loads what the repository holds. Faults of single models are kept, not raised."""
        self._watcher = asyncio.create_task(self._watch())
        try:
            found_models = (await asyncio.to_thread(scan, self._root)).values()
            self.models = {found.name: Model(found.name) for found in found_models}
            # Ensembles come last: they check the models that they consist of.
            for found in sorted(found_models, key=_is_ensemble):
                await self._apply(found)
        finally:
            self.loading = False
        memory.settle()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now = time.perf_counter_ns()
            for served in [
                *self._ending,
                *(one for model in self.models.values() for one in model.versions.values()),
            ]:
                served.watch(now)

    async def load(self, name: str) -> None:
        """Brings one model to what the repository says now. Raises NotFound, LoadError.

        What is unchanged stays as it is; what can't be loaded leaves the old in place.
        """
        folder = self._root / name
        if not _NAME.fullmatch(name) or not await asyncio.to_thread(folder.is_dir):
            raise NotFound(f"the repository has no model {name!r}")
        found = await asyncio.to_thread(scan_model, folder)
        self.models.setdefault(name, Model(name))
        await self._apply(found)
        memory.settle()
        if faults := self.models[name].faults:
            raise LoadError("; ".join(faults.values()))

    async def unload(self, name: str) -> None:
        """Ends every version of one model, after the requests that it has. Raises NotFound."""
        async with self._changing:
            model = self.models.get(name)
            if model is None:
                raise NotFound(f"there is no model {name!r}")
            versions, model.versions, model.faults = model.versions, {}, {}
        await self._end(list(versions.values()))
        memory.settle()

    async def close(self) -> None:
        """Ends everything, after the requests that wait."""
        async with self._changing:
            versions = [served for model in self.models.values() for served in model.versions.values()]
            for model in self.models.values():
                model.versions = {}
        await self._end(versions)
        if self._watcher is not None:
            self._watcher.cancel()

    async def _end(self, versions: list[Served]) -> None:
        self._ending.update(versions)
        await asyncio.gather(*(served.stop() for served in versions))
        self._ending.difference_update(versions)

    async def _apply(self, found: FoundModel) -> None:
        async with self._changing:
            model = self.models[found.name]
            if found.config is None:
                log.error("model %s: %s", found.name, found.fault)
                model.faults = {"": found.fault}
                return
            fresh, faults = await self._start(found, found.config, model)
            kept = {
                version: served
                for version, served in model.versions.items()
                # Where a version could not be loaded, those that it was to replace stay.
                if version not in fresh and (faults or int(version) in found.versions)
            }
            retired = [
                served for version, served in model.versions.items() if kept.get(version) is not served
            ]
            model.config = found.config
            model.faults = faults | {str(number): fault for number, fault in found.missing.items()}
            model.versions = dict(sorted((kept | fresh).items(), key=lambda item: int(item[0])))
        await self._end(retired)

    async def _start(
        self, found: FoundModel, config: ModelConfig, model: Model
    ) -> tuple[dict[str, Served], dict[str, str]]:
        """The versions of ``found`` that are new or changed, running; and why others are not."""
        fresh: dict[str, Served] = {}
        faults: dict[str, str] = {}
        for number, version in found.versions.items():
            old = model.versions.get(str(number))
            if old is not None and not old.fault and old.found.fingerprint == version.fingerprint:
                continue
            served = self._kinds.get(config.platform, Served)(config, version, self.find)
            served.request_log = self.request_log
            try:
                await served.start(self._device, self._threads)
            except LoadError as error:
                log.error("model %s version %d: %s", found.name, number, error)
                faults[str(number)] = str(error)
            else:
                log.info("model %s version %d is ready", found.name, number)
                fresh[str(number)] = served
        return fresh, faults


def _is_ensemble(found: FoundModel) -> bool:
    return found.config is not None and found.config.platform == "ensemble"
