"""One version of one model while it is loaded: its queue, its instances, its counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final, TypeGuard, TypeVar

from backends.batching.deadlines import Deadlines
from backends.batching.entry import Entry, Outcome, Report
from backends.batching.execution import Executable
from backends.batching.instance import Instance
from backends.batching.loop import GUARD, MAX_BATCH_S, LoopInstance
from backends.batching.pending import PendingBytes
from backends.batching.queue import Queue
from backends.config import ModelConfig
from backends.errors import LoadError, ModelFailed, NotFound, ServerError, Unavailable
from backends.forks import FORKS
from backends.owner.messages import Load
from backends.owner.process import DEVICE_PROCESSES, LOAD_LIMIT_S, RemoteModel
from backends.owner.remote import RemoteInstance
from backends.repository import FoundVersion
from backends.request_log import RequestLog
from backends.stats import Stats
from backends.threads import in_daemon
from backends.wire.answer import identity_of
from backends.wire.request import Plans
from backends.wire.signature import Signature

T = TypeVar("T")
AnyInstance = Instance | RemoteInstance

log = logging.getLogger("turnout.backend")

MAX_STUCK_INSTANCES: Final = 2
"""Threads of one version that may hang in native code; after that it is no longer served."""
MIN_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
"""Between two attempts to load an instance again; the pause doubles from the shortest to the longest."""
STOP_POLL_S: Final = 0.25
_SERIALS: Final = count(1)


class Served:
    """Made on the event loop; all its methods belong there."""

    def __init__(
        self, config: ModelConfig, found: FoundVersion, find: Callable[[str, str], Served] | None = None
    ) -> None:
        """``find`` gives other models of the server, by name and version ("": the newest)."""
        batching = config.dynamic_batching
        self.config = config
        self.found = found
        self.name = config.name
        self.version = str(found.number)
        self.serial = next(_SERIALS)
        """Of no other version, nor of this one when it is loaded again."""
        self.identity = identity_of(self.name, self.version)
        self.signature = Signature.of(config)
        self.plans = Plans(self.signature)
        self.stats = Stats()
        self.queue = Queue(
            max(config.max_batch_size, 1),
            batching.max_queue_delay_microseconds * 1000,
            batching.default_queue_policy.max_queue_size,
        )
        self.find = find or _nothing
        self.pending = PendingBytes()
        self.request_log: RequestLog | None = None
        self.fault = ""
        """Why the loaded version can't be used."""
        self._timeout = batching.default_queue_policy.default_timeout_microseconds / 1e6
        self._batch_limit = config.batch_timeout_microseconds * 1000
        self._deadlines = Deadlines(self._expire)
        self._on_loop: LoopInstance | None = None
        self._instances: dict[AnyInstance, int] = {}
        """Each with its index in `_loads`."""
        self._stuck: list[AnyInstance] = []
        self._replacing: set[asyncio.Task[None]] = set()
        self._remotes: list[RemoteInstance] = []
        """Those of `_instances` that run in device processes."""
        self._loads: list[Callable[[], Executable | RemoteModel]] = []
        self._ending = asyncio.Event()
        """No instance is loaded again."""

    async def start(self, device: str, threads: int) -> None:
        """Loads and warms every instance. Raises LoadError; nothing is left running then."""
        try:
            places = await load_guarded(self.title(), partial(devices_of, self.config, device))
            if self.config.precision == "tf32" and "cpu" in places:
                log.warning("model %s: precision tf32 has no effect on CPUs", self.title())
            self._loads = [partial(_load, self.config, self.found, place, threads) for place in places]
            first = await load_guarded(self.title(), self._loads[0])
            if len(places) == 1 and self._belongs_on_loop(first):
                self._on_loop = LoopInstance(self.title(), self.queue, first, self._deliver, self._leave_loop)
                return
            await self._start(0, first)
            await asyncio.gather(*(self._add(index) for index in range(1, len(places))))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Refuses new requests, responds to waiting ones, and frees the model."""
        self._ending.set()
        self.queue.close()
        if self._on_loop is not None:
            self._on_loop.end()
            self._on_loop = None
        self._wake_remotes()
        await asyncio.gather(*self._replacing, return_exceptions=True)
        while self._instances:
            ends = [
                asyncio.ensure_future(asyncio.wrap_future(instance.ended)) for instance in self._instances
            ]
            await asyncio.wait(ends, timeout=STOP_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            for instance in [instance for instance in self._instances if instance.ended.done()]:
                self._instances.pop(instance, None)
        # The last instance may have hung, or been lost with its process.
        self._fail_waiting(Unavailable("this version is being unloaded; send the request again"))

    def submit(self, entry: Entry, timeout: float = 0.0) -> None:
        """Queues ``entry``, to wait at most ``timeout`` seconds (0: as the configuration says).

        Raises Unavailable.
        """
        try:
            entry.hold(self.pending)
            self.queue.put(entry)
        except Unavailable:
            entry.end()
            self.stats.rejected += 1
            raise
        timeout = timeout or self._timeout
        if timeout:
            entry.deadline = entry.arrived + int(timeout * 1e9)
            self._deadlines.add(entry)
        if self._on_loop is not None:
            self._on_loop.wake()
        elif self._remotes:
            min(self._remotes, key=_in_flight).wake()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self.queue)

    @property
    def executor(self) -> str:
        """Where batches run: `loop`, `thread` or `process`."""
        if self._remotes:
            return "process"
        return "thread" if self._on_loop is None else "loop"

    def abandon(self, entry: Entry) -> None:
        """The client of ``entry`` has left: it leaves the queue, or its outcome is dropped."""
        if not entry.done:
            entry.end()
            self.queue.discard(entry)

    def watch(self, now: int) -> None:
        """Replaces instances whose batch exceeds its time limit; ``now`` as of `time.perf_counter_ns`."""
        if not self._batch_limit:
            return
        for instance in list(self._instances):
            if instance.started and now - instance.started > self._batch_limit:
                seconds = self._batch_limit / 1e9
                log.error("%s: a batch exceeded %g s; the instance is replaced", self.title(), seconds)
                self._replace(
                    instance, ModelFailed(f"{self.title()} did not finish the batch in {seconds:g} s")
                )

    def title(self) -> str:
        """Model and version, for messages."""
        return f"{self.name} version {self.version}"

    def _belongs_on_loop(self, executable: Executable | RemoteModel) -> TypeGuard[Executable]:
        wish = self.config.executor
        if isinstance(executable, RemoteModel) or wish == "thread" or not GUARD.watch():
            return False
        return wish == "loop" or (executable.predictable and executable.batch_seconds <= MAX_BATCH_S)

    def _leave_loop(self) -> None:
        if self._on_loop is not None:
            executable = self._on_loop.detach()
            self._on_loop = None
            try:
                self._follow(0, self._thread(0, executable))
            except RuntimeError:  # no thread is left
                executable.close()
                self._load_again(0)

    async def _add(self, index: int) -> None:
        await self._start(index, await load_guarded(self.title(), self._loads[index]))

    async def _start(self, index: int, model: Executable | RemoteModel) -> None:
        if isinstance(model, RemoteModel):
            instance = await model.instance(self._instance_title(index), self.queue, self._deliver)
            self._remotes.append(instance)
            self._follow(index, instance)
            instance.wake()
        else:
            self._follow(index, self._thread(index, model))

    def _thread(self, index: int, executable: Executable) -> Instance:
        loop = asyncio.get_running_loop()
        return Instance(self._instance_title(index), self.queue, executable, self._deliver, loop)

    def _instance_title(self, index: int) -> str:
        return self.title() + (f" instance {index}" if index else "")

    def _follow(self, index: int, instance: AnyInstance) -> None:
        self._instances[instance] = index
        asyncio.wrap_future(instance.ended).add_done_callback(lambda _: self._on_ended(instance))

    def _on_ended(self, instance: AnyInstance) -> None:
        if instance in self._stuck:
            self._stuck.remove(instance)
        elif instance in self._instances and not self._released(instance):
            self._replace(instance, ModelFailed(f"{self.title()} failed; the server's log has the details"))

    def _released(self, instance: AnyInstance) -> bool:
        """Whether ``instance`` ended because the queue is closed, with nothing left to do."""
        return self.queue.closed and not (isinstance(instance, RemoteInstance) and instance.in_flight)

    def _wake_remotes(self) -> None:
        for remote in self._remotes:
            remote.wake()

    def _replace(self, instance: AnyInstance, reason: ServerError) -> None:
        """Fails the batch of ``instance``, and loads another one in its place."""
        index = self._instances.pop(instance)
        if isinstance(instance, RemoteInstance):
            self._remotes.remove(instance)
        for entry in instance.retire():
            if entry.settle(reason):
                self.stats.fail.add(time.perf_counter_ns() - entry.arrived)
        if not instance.ended.done():
            self._stuck.append(instance)
        if self._ending.is_set():
            return
        # A thread in native code cannot be ended: each that hangs keeps its memory and a core.
        if len(self._stuck) > MAX_STUCK_INSTANCES:
            self._give_up(f"{self.title()} hangs: {len(self._stuck)} batches never ended; load it again")
            return
        self._load_again(index)

    def _load_again(self, index: int) -> None:
        task = asyncio.get_running_loop().create_task(self._reload(index))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _reload(self, index: int) -> None:
        """Loads an instance until that succeeds; what it needs may be short for a while."""
        pause = MIN_PAUSE_S
        while not self._ending.is_set():
            try:
                model = await load_guarded(self.title(), self._loads[index])
                if self.fault and not self._ending.is_set():
                    log.info("%s is served again", self.title())
                    self.fault = ""
                    self.queue.reopen()  # before the instance looks at it, which would end
                await self._start(index, model)
                return
            except Exception as error:  # noqa: BLE001  no thread or file may be left, too
                expected = isinstance(error, LoadError)
                fault = str(error) if expected else f"{self.title()}: {type(error).__name__}: {error}"
                log.error("%s; an instance is loaded again in %g s", fault, pause)
            if not self._instances and not self._ending.is_set():
                self._refuse(f"{fault}; it is loaded again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
            pause = min(2 * pause, MAX_PAUSE_S)

    def _give_up(self, fault: str) -> None:
        log.error("%s is no longer served: %s", self.title(), fault)
        self._ending.set()
        self._refuse(fault)

    def _refuse(self, fault: str) -> None:
        self.fault = fault
        reason = f"{self.title()} is not served; see the repository index"
        self.queue.close(reason)
        if not self._instances:
            self._fail_waiting(Unavailable(reason))

    def _fail_waiting(self, reason: ServerError) -> None:
        while entries := self.queue.take_now():
            for entry in entries:
                entry.settle(reason)

    def _expire(self, entry: Entry) -> None:
        self.queue.discard(entry)
        if entry.settle(Unavailable("the request waited longer than its timeout; try again")):
            self.stats.fail.add(time.perf_counter_ns() - entry.arrived)

    def write_log(self, entry: Entry, outcome: Outcome) -> None:
        """Writes ``entry`` into the request log, if there is one."""
        if self.request_log is not None:
            self.request_log.offer(self.name, self.version, self.signature, entry, outcome)

    def _deliver(self, report: Report) -> None:
        if self.request_log is not None:
            outcomes: list[tuple[Entry, Outcome]] = [*report.answered, *report.failed]
            for entry, outcome in outcomes:
                self.write_log(entry, outcome)
        for entry, outputs in report.answered:
            entry.settle(outputs)
        for entry, error in report.failed:
            entry.settle(error)
        self.stats.record(report)


def _nothing(name: str, version: str) -> Served:
    raise NotFound(f"there is no model {name!r}")


async def load_guarded(title: str, function: Callable[[], T]) -> T:
    """The result of ``function``, run in a thread within `LOAD_LIMIT_S`. Raises LoadError."""
    try:
        async with asyncio.timeout(LOAD_LIMIT_S):
            return await in_daemon(title, partial(_guarded, title, function), _close)
    except TimeoutError:
        raise LoadError(f"{title}: loading took longer than {LOAD_LIMIT_S:g} s") from None


def _close(result: object) -> None:
    """Releases a model that was loaded too late."""
    close = getattr(result, "close", None)
    if close is not None:
        close()


def _guarded(title: str, function: Callable[[], T]) -> T:
    """``function``'s result; whatever a model's code raises, SystemExit included, becomes a LoadError."""
    try:
        return function()
    except LoadError:
        raise
    except BaseException as error:
        raise LoadError(f"{title}: {type(error).__name__}: {_text(error)}") from error
    finally:
        FORKS.end_child()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001  the text of a model's exception is the model's code, too
        return "its text can't be read"


def devices_of(config: ModelConfig, device: str) -> list[str]:
    """Where each instance goes. Raises LoadError."""
    # torch takes seconds to import, so it is imported here, off the event loop, while health is answered.
    from backends.runtime.load import devices

    return devices(config, device)


def _load(config: ModelConfig, found: FoundVersion, device: str, threads: int) -> Executable | RemoteModel:
    """A loaded copy, in the process of the device for GPUs or where the configuration says so."""
    if config.executor == "process" or (config.executor == "auto" and device != "cpu"):
        return DEVICE_PROCESSES.load(Load(config, found, device, threads))
    from backends.runtime.load import executable

    return executable(config, found, device, threads)


def _in_flight(instance: RemoteInstance) -> int:
    return instance.in_flight
