"""The models that are served, and how they come and go: the new version is up before the old one ends."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import Final

from backends import memory
from backends.batching.pending import PendingBytes
from backends.config import NAME
from backends.errors import LoadError, NotFound, Unavailable
from backends.model import Model, Update
from backends.repository import FoundModel, scan, scan_model
from backends.request_log import RequestLog
from backends.served import Served

log = logging.getLogger("turnout.backend")

_NAME = re.compile(NAME)
WATCH_INTERVAL_S: Final = 0.1
MAX_FAULT_CHARS: Final = 500
"""On one line: a reason may be a trace of C++."""
RECHECK_INTERVAL_S: Final = 5.0
"""Ensembles that can't be served because of their steps are checked again this often."""
SLOW_LOAD_S: Final = 10.0
"""Models are loaded one after the other; after this long, the next one begins next to one that is not done."""


class Registry:
    """All models. Its methods belong to the event loop, which never sees a half-made change."""

    def __init__(
        self,
        root: Path,
        device: str = "auto",
        threads: int = 0,
        kinds: Mapping[str, type[Served]] = MappingProxyType({}),
        pending: PendingBytes | None = None,
    ) -> None:
        """``kinds``: by platform, how a version is served if not in batches of rows.

        ``pending``: of the requests for all models.
        """
        self.models: dict[str, Model] = {}
        self.loading = True
        """Until the first look at the repository is done."""
        self._root = root
        self._device = device
        self._threads = threads
        self._kinds = kinds
        self.request_log: RequestLog | None = None
        """Where versions loaded from now on write their requests."""
        self.pending = PendingBytes() if pending is None else pending
        self._turns = asyncio.Lock()
        self._ending: set[Served] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def faults(self) -> list[str]:
        """Why models or versions that should be served are not, one line each."""
        return [fault for model in self.models.values() for fault in model.all_faults().values()]

    def progress(self) -> list[str]:
        """The versions that are being loaded, and for how long."""
        return [
            f"{model.name} version {version} ({state})"
            for model in self.models.values()
            for version, state in model.progress().items()
            if version
        ]

    def find(self, name: str, version: str = "") -> Served:
        """The version to answer; "" is the newest loaded. Raises NotFound, Unavailable."""
        model = self.models.get(name)
        if model is not None:
            served = model.versions.get(version) if version else model.newest
            if served is not None:
                if served.fault:
                    raise Unavailable(f"model {name!r} is not served: {served.fault}")
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
        if model is None:
            if self.loading and not self.models:
                return Unavailable("the models are still being looked up; try again as Retry-After says")
            return NotFound(f"there is no model {name!r}; there are {', '.join(self.models) or 'none'}")
        progress = model.progress()
        if progress and not model.versions:
            state = ", ".join(f"version {key} {value}" if key else value for key, value in progress.items())
            return Unavailable(f"model {name!r} is not loaded yet ({state}); try again as Retry-After says")
        if model.faults and (not version or version in model.faults or "" in model.faults):
            return Unavailable(
                f"model {name!r} version {version or 'any'} could not be loaded; see the repository index"
            )
        if not model.versions:
            return Unavailable(f"model {name!r} is not loaded; load it first")
        return NotFound(f"model {name!r} has no version {version!r}; it has {', '.join(model.versions)}")

    async def load_all(self, absent: Mapping[str, str] = MappingProxyType({})) -> None:
        """Loads what the repository holds. Faults of single models are kept, not raised.

        Args:
            absent: By name, why models that should be in the repository are not.

        Raises:
            LoadError: The repository can't be read.
        """
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._recheck())]
        try:
            found_models = (await asyncio.to_thread(scan, self._root)).values()
            self.models.update((name, Model(name, faults={"": why})) for name, why in absent.items())
            loads: dict[str, asyncio.Task[bool]] = {}
            async with asyncio.TaskGroup() as group:
                # Ensembles come last: they check the models that they consist of.
                for found in sorted(found_models, key=_is_ensemble):
                    self.models.setdefault(found.name, Model(found.name)).loading = {"": time.monotonic()}
                    steps = [loads[name] for name in _steps(found) if name in loads]
                    loads[found.name] = group.create_task(self._apply(found, steps))
        finally:
            self.loading = False
        memory.settle(gone=False)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now = time.perf_counter_ns()
            for served in [
                *self._ending,
                *(one for model in self.models.values() for one in model.versions.values()),
            ]:
                served.watch(now)

    async def _recheck(self) -> None:
        """Loads ensembles again whose steps were absent or did not fit."""
        while True:
            await asyncio.sleep(RECHECK_INTERVAL_S)
            await asyncio.gather(
                *(
                    self._apply(model.found, rechecked=True)
                    for model in self.models.values()
                    if model.found is not None
                    and _is_ensemble(model.found)
                    and model.all_faults()
                    and not model.changing.locked()
                )
            )

    def tensor_names(self) -> set[str]:
        """The inputs and outputs of all models whose configuration could be read."""
        configs = [model.found.config for model in self.models.values() if model.found is not None]
        return {tensor.name for one in configs if one is not None for tensor in (*one.input, *one.output)}

    async def load(self, name: str) -> None:
        """Brings one model to what the repository says now. Raises NotFound, LoadError.

        What is unchanged stays as it is; what can't be loaded leaves the old in place.
        """
        folder = self._root / name
        if not _NAME.fullmatch(name) or not await asyncio.to_thread(folder.is_dir):
            raise NotFound(f"the repository has no model {name!r}")
        found = await asyncio.to_thread(scan_model, folder)
        model = self.models.setdefault(name, Model(name))
        before = len(model.versions)
        gone = await self._apply(found)
        # A load that changes nothing would only take out what requests in progress hold, and never look at it again.
        if gone or len(model.versions) > before:
            memory.settle(gone=gone)
        if model.faults:
            raise LoadError("; ".join(model.faults.values()))

    async def unload(self, name: str) -> None:
        """Ends every version of one model, after the requests that it has. Raises NotFound."""
        model = self.models.get(name)
        if model is None:
            raise NotFound(f"there is no model {name!r}")
        await self._clear(model)
        memory.settle(gone=True)

    async def close(self) -> None:
        """Ends everything, after the requests that wait."""
        await asyncio.gather(*map(self._clear, self.models.values()))
        for task in self._tasks:
            task.cancel()

    async def _clear(self, model: Model) -> None:
        model.unloads += 1
        if model.loader is not None:
            model.loader.cancel()
        async with model.changing:
            versions, model.versions, model.faults, model.found = model.versions, {}, {}, None
        await self._end(list(versions.values()))

    async def _end(self, versions: list[Served]) -> None:
        self._ending.update(versions)
        try:
            await asyncio.gather(*(served.stop() for served in versions))
        finally:
            self._ending.difference_update(versions)

    async def _apply(
        self, found: FoundModel, before: Iterable[asyncio.Task[bool]] = (), *, rechecked: bool = False
    ) -> bool:
        """Brings a model to what was found, once the tasks ``before`` are done; whether versions ended or failed."""
        model = self.models[found.name]
        unloads = model.unloads
        retired: list[Served] = []
        async with model.changing:
            model.rechecked, model.loading = rechecked, {"": time.monotonic()}
            model.loader = loader = asyncio.current_task()
            try:
                if model.unloads != unloads:
                    raise asyncio.CancelledError  # given up while it waited
                model.found = found
                for task in before:
                    await asyncio.wait([task])
                await self._replace(found, model, retired)
            except asyncio.CancelledError:
                if model.unloads == unloads or loader is None:
                    raise
                loader.uncancel()
                model.faults = {"": f"model {found.name} was unloaded while it was loaded"}
            finally:
                model.loader, model.loading, model.rechecked = None, {}, False
        await self._end(retired)
        return bool(retired or model.faults)

    async def _replace(self, found: FoundModel, model: Model, retired: list[Served]) -> None:
        """Loads what is new or changed, and adds the versions that it replaces to ``retired``."""
        if found.config is None:
            # A name that is not UTF-8 could not be written into most logs.
            log.error("%s", f"model {found.name}: {found.fault}".encode(errors="replace").decode())
            model.faults = {"": found.fault}
            return
        update = Update(model, retired)
        try:
            async with asyncio.TaskGroup() as group:
                for number, version in found.versions.items():
                    old = model.versions.get(str(number))
                    if old is not None and not old.fault and old.found.fingerprint == version.fingerprint:
                        continue
                    served = self._kinds.get(found.config.platform, Served)(found.config, version, self.find)
                    served.request_log, served.pending = self.request_log, self.pending
                    group.create_task(self._start(served, update))
        except asyncio.CancelledError:
            await self._end(list(update.fresh.values()))
            raise
        update.publish()
        if not update.faults:  # else the versions that the faulty ones were to replace stay
            update.keep(map(str, found.versions))
        model.faults = update.faults | {str(number): fault for number, fault in found.missing.items()}

    async def _start(self, served: Served, update: Update) -> None:
        """Loads one version in its turn; ensembles have nothing to compute, and do not wait for one."""
        loading = update.model.loading
        is_ensemble = served.config.ensemble_scheduling is not None
        async with nullcontext() if is_ensemble else self._turn(served.title(), update.overtake):
            loading.pop("", None)
            loading[served.version] = time.monotonic()
            try:
                await served.start(self._device, self._threads)
            except Exception as error:  # a fault of one model, whatever it is, is no fault of the others
                expected = isinstance(error, LoadError)
                fault = str(error) if expected else f"{type(error).__name__}: {error}"
                title = served.title()
                brief = shorten(fault, MAX_FAULT_CHARS, placeholder=" … (the log has the rest)")
                if is_ensemble:
                    brief += f"; this is checked again every {RECHECK_INTERVAL_S:g} s"
                update.faults[served.version] = brief
                if update.model.faults.get(served.version) != brief:  # else the log has it
                    text = fault.removeprefix(f"{title}: ")
                    log.error("model %s: %s", title, text, exc_info=not expected and error)
            else:
                log.info("model %s is ready", served.title())
                update.add(served)
            finally:
                del loading[served.version]
                if not loading:
                    loading[""] = time.monotonic()

    @asynccontextmanager
    async def _turn(self, title: str, overtake: Callable[[], None]) -> AsyncIterator[None]:
        """One load at a time, in the order of their begin, apart from those that exceed `SLOW_LOAD_S`.

        ``overtake`` is called when the others no longer wait.
        """
        await self._turns.acquire()
        holding = True

        def release() -> None:
            nonlocal holding
            if holding:
                holding = False
                self._turns.release()

        def overdue() -> None:
            log.warning("model %s is still being loaded; the others no longer wait for it", title)
            release()
            overtake()

        timer = asyncio.get_running_loop().call_later(SLOW_LOAD_S, overdue)
        try:
            yield
        finally:
            timer.cancel()
            release()


def _is_ensemble(found: FoundModel) -> bool:
    return found.config is not None and found.config.platform == "ensemble"


def _steps(found: FoundModel) -> list[str]:
    """The models that an ensemble consists of; none for other models."""
    scheduling = found.config.ensemble_scheduling if found.config is not None else None
    return [] if scheduling is None else [step.model_name for step in scheduling.step]
