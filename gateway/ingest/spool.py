"""Rewards on the local disk, for as long as the store is away.

One append-only file for each process. A line is a CRC-32 of the rest in hexadecimal, a space, and one
reward as a JSON array; it is on the disk (fdatasync) before its report is answered. What a SIGKILL cut
off was not answered, and its CRC says so. When the store is back the lines are replayed in order; the
store takes no notice of those it has, so a replay that breaks off simply begins again. Files of processes
that have died are replayed by whoever can lock them.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import zlib
from asyncio import Future
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gateway.record.events import Reward
from gateway.runtime.local_dir import remove_if_empty, why_unwritable
from gateway.state.base import StoreUnavailable
from gateway.state.store import RecordStore

log = logging.getLogger("turnout.spool")

_CHUNK: Final = 1 << 18
"""Bytes replayed in one call of the store."""
_SUFFIX: Final = ".spool"


class Spool:
    """The spool of one process, in a directory that processes of one machine share."""

    def __init__(self, directory: str | Path, store: RecordStore) -> None:
        self._directory = Path(directory)
        self._store = store
        self._file: _File | None = None
        self._queue: list[tuple[bytes, Future[None]]] = []
        self._lock = asyncio.Lock()
        """Held while the file is written or emptied."""
        self._writing: asyncio.Task[None] | None = None
        self.damaged = 0
        """Lines whose CRC was wrong; they are kept in a file beside the spool's."""
        self.replayed = 0

    async def open(self) -> None:
        """Warns where rewards could not be written."""
        reason = await asyncio.to_thread(why_unwritable, self._directory)
        if reason:
            log.warning(
                "the spool %s can't be written: %s. While the store is away rewards are refused with 503; "
                "name a writable directory under 'record.spool'",
                self._directory,
                reason,
            )

    @property
    def waiting(self) -> bool:
        """Whether rewards of this process wait here. Until they are replayed, later ones must queue up
        behind them, or a correction could overtake what it corrects."""
        return bool(self._queue) or (self._file is not None and self._file.waiting > 0)

    async def add(self, rewards: Sequence[Reward]) -> None:
        """Returns once they are on the disk; callers at the same time share one fdatasync.

        Raises StoreUnavailable when this can't be written either.
        """
        data = b"".join(map(_line, rewards))
        done: Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((data, done))
        if self._writing is None or self._writing.done():
            # A task of its own: a caller that is cancelled must not leave the others waiting.
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._queue:
            async with self._lock:
                queue, self._queue = self._queue, []
                failure = await self._try(b"".join(data for data, _ in queue))
            for _, done in queue:
                if done.cancelled():
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)

    async def _try(self, data: bytes) -> StoreUnavailable | None:
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            return StoreUnavailable(
                f"The store is away and the spool {self._directory} can't be written either: {error}. "
                "Make the directory writable and free some space."
            )
        return None

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = _File.fresh(self._directory)
        self._file.append(data)

    # Replaying ----------------------------------------------------------------------------------
    async def run(self, interval: float = 1.0) -> None:
        """Replays whenever there is something to replay and the store takes it, until cancelled."""
        while True:
            try:
                await self.replay()
            except StoreUnavailable:
                pass
            except OSError as error:
                log.error("the spool %s can't be read: %s", self._directory, error)
            except Exception:
                log.exception("replaying the spool %s failed; it is tried again", self._directory)
            await asyncio.sleep(interval)

    async def replay(self) -> int:
        """Hands all that waits here, also from dead processes, to the store; how many rewards that were.

        Raises StoreUnavailable while the store is away; nothing is lost then.
        """
        before = self.replayed
        for orphan in await asyncio.to_thread(self._orphans):
            try:
                await self._drain(orphan)
                await asyncio.to_thread(orphan.remove)
            finally:
                orphan.close()
        if self._file is not None and self._file.waiting:
            await self._drain(self._file)
            async with self._lock:
                # Nothing may slip in between the last line replayed and the file's end.
                await self._drain(self._file)
                await asyncio.to_thread(self._file.clear)
        return self.replayed - before

    async def _drain(self, file: _File) -> None:
        while file.waiting:
            data, end = await asyncio.to_thread(file.chunk)
            rewards = list(self._parsed(data))
            if rewards:
                await self._store.reward(rewards, replay=True)
            file.done = end
            self.replayed += len(rewards)

    def _parsed(self, data: bytes) -> Iterator[Reward]:
        for line in data.rstrip(b"\n").split(b"\n"):
            reward = _reward(line)
            if reward is not None:
                yield reward
            else:
                self.damaged += 1
                log.error("a line of the spool is damaged and was set aside in %s", self._directory)
                with (self._directory / "damaged.lines").open("ab") as aside:
                    aside.write(line + b"\n")

    def _orphans(self) -> list[_File]:
        if not self._directory.is_dir():
            return []
        mine = self._file.path if self._file is not None else None
        paths = sorted(path for path in self._directory.glob(f"*{_SUFFIX}") if path != mine)
        return [file for path in paths if (file := _File.claimed(path)) is not None]

    async def close(self) -> None:
        """Leaves what still waits on the disk, for the next process."""
        if self._file is not None:
            if not self._file.waiting:
                await asyncio.to_thread(self._file.remove)
            self._file.close()
            self._file = None
        await asyncio.to_thread(remove_if_empty, self._directory)


class _File:
    """One spool file, locked by the process that owns it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.end = os.fstat(descriptor).st_size
        self.done = 0

    @classmethod
    def fresh(cls, directory: Path) -> _File:
        path = directory / f"{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
        making = path.with_suffix(".new")
        try:
            descriptor = _created(making)
        except FileNotFoundError:  # another process has just removed the empty directory
            descriptor = _created(making)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        making.rename(path)  # under a name that others look for only once it is locked
        holder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(holder)  # a file whose name is not on the disk is not there after a power cut
        finally:
            os.close(holder)
        return cls(path, descriptor)

    @classmethod
    def claimed(cls, path: Path) -> _File | None:
        """A file whose owner has died; None when it is alive, or another process was faster."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    @property
    def waiting(self) -> int:
        """Bytes that are not replayed yet."""
        return self.end - self.done

    def append(self, data: bytes) -> None:
        """On the disk when it returns; nothing is added when it raises OSError."""
        try:
            at = self.end
            while at < self.end + len(data):
                at += os.pwrite(self._descriptor, data[at - self.end :], at)
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self.end)
            raise
        self.end += len(data)

    def chunk(self) -> tuple[bytes, int]:
        """Whole lines from `done` on, and where they end."""
        data = os.pread(self._descriptor, min(_CHUNK, self.waiting), self.done)
        whole = data[: data.rfind(b"\n") + 1] or data  # a torn last line fails its CRC
        return whole, self.done + len(whole)

    def clear(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self.end = self.done = 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)


def _created(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _line(reward: Reward) -> bytes:
    text = json.dumps([reward.decision.hex(), *reward[1:]], separators=(",", ":"), ensure_ascii=False)
    body = text.encode("utf-8", "surrogatepass")
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _reward(line: bytes) -> Reward | None:
    """None when the line is damaged."""
    crc, _, body = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(body):
        return None
    decision, *rest = json.loads(body.decode("utf-8", "surrogatepass"))
    return Reward(bytes.fromhex(decision), *rest)
