"""The spool: rewards on the local disk while the store is away.

Each process has one append-only file. A line is a CRC-32 of the rest in hexadecimal, a space, and a reward as a
JSON array; it is on the disk (fdatasync) before the client gets its response. A line cut off by SIGKILL was not
acknowledged, and its CRC is wrong. When the store is back, lines are replayed in order; the store ignores those it
has, so an interrupted replay starts again from the beginning. Any process that can lock the file of a dead one
replays it.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, TypeAdapter

from gateway.record.events import Reward
from gateway.runtime.data_dir import remove_if_empty, why_unwritable
from gateway.state.base import StoreUnavailable
from gateway.state.store import RecordStore

log = logging.getLogger("turnout.spool")

_CHUNK_BYTES: Final = 1 << 18
"""Bytes replayed in one call of the store."""
_SUFFIX: Final = ".spool"
_REWARD: Final = TypeAdapter(Reward, config=ConfigDict(strict=True, allow_inf_nan=False))


class Spool:
    """The spool of one process, in a directory that processes of one machine share."""

    def __init__(self, directory: str | Path, store: RecordStore) -> None:
        self._directory = Path(directory)
        self._store = store
        self._file: _File | None = None
        self._adopted: list[_File] = []
        """Files of dead processes, locked here until they are replayed."""
        self._queue: list[tuple[bytes, Future[None]]] = []
        self._lock = asyncio.Lock()
        """Held while the file is written or cleared."""
        self._writing: asyncio.Task[None] | None = None
        self._unreadable: set[Path] = set()
        """Files that were reported."""
        self.damaged = 0
        """Lines that can't be replayed; they are kept in ``damaged.lines`` in the same directory."""
        self.replayed = 0
        """Rewards that the store has taken from here."""

    async def open(self) -> None:
        """Log a warning if the directory cannot be written."""
        reason = await asyncio.to_thread(why_unwritable, self._directory)
        if reason:
            log.warning(
                "the spool %s can't be written: %s. While the store is unavailable rewards are refused with 503; "
                "name a writable directory under 'record.spool'",
                self._directory,
                reason,
            )

    @property
    def waiting(self) -> bool:
        """Whether rewards of this process wait here.

        Until they are replayed, later ones must queue behind them, or a correction could overtake the value that
        it corrects.
        """
        return bool(self._queue) or (self._file is not None and self._file.waiting > 0)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are not replayed yet, in the file of this process and those of dead ones that it took over."""
        own = self._file.waiting if self._file is not None else 0
        return own + sum(file.waiting for file in self._adopted)

    async def add(self, rewards: Sequence[Reward]) -> None:
        """Write rewards to the disk; concurrent callers share one fdatasync.

        Raises StoreUnavailable if the file cannot be written either.
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
        except Exception as error:  # noqa: BLE001  no thread can be started, too: who waits must learn of it
            return StoreUnavailable(
                f"The store is unavailable, and the spool {self._directory} can't be written either: {error}. "
                "Make the directory writable and free some space."
            )
        return None

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = _File.fresh(self._directory)
        self._file.append(data)

    # Replaying ----------------------------------------------------------------------------------
    async def run(self, interval: float = 1.0) -> None:
        """Replay every ``interval`` seconds until cancelled."""
        while True:
            try:
                await self.replay()
            except StoreUnavailable:
                pass
            except OSError as error:
                log.error("the spool %s can't be read: %s", self._directory, error)
            except Exception:
                log.exception("replaying the spool %s failed; retrying", self._directory)
            await asyncio.sleep(interval)

    async def replay(self) -> int:
        """Write all that waits, also from dead processes, to the store; returns the number of rewards.

        Raises StoreUnavailable while the store is away, without a loss.
        """
        before = self.replayed
        for path in await asyncio.to_thread(self._orphans):
            with self._reported(path):
                claimed = await asyncio.to_thread(_File.claimed, path)
                if claimed is not None:
                    self._adopted.append(claimed)
        for file in tuple(self._adopted):
            with self._reported(file.path):
                await self._drain(file)
                # Before the lock goes, or another process would replay it once more.
                await asyncio.to_thread(file.remove)
                self._adopted.remove(file)
                file.close()
        if self._file is not None and self._file.waiting:
            await self._drain(self._file)
            async with self._lock:
                # Under the lock no line can be added between the last one replayed and the truncation.
                await self._drain(self._file)
                await asyncio.to_thread(self._file.clear)
        return self.replayed - before

    @contextmanager
    def _reported(self, path: Path) -> Iterator[None]:
        """Log an OSError of the file at ``path`` once: one file must not hold up the others."""
        try:
            yield
        except OSError as error:
            if path not in self._unreadable:
                self._unreadable.add(path)
                log.error("%s in the spool can't be replayed: %s", path, error)

    async def _drain(self, file: _File) -> None:
        while file.waiting:
            data, end = await asyncio.to_thread(file.chunk)
            if not data:
                log.error("%s was cut short: %d bytes of rewards are lost", file.path, file.waiting)
                file.done = file.end
                return
            lines = data.rstrip(b"\n").split(b"\n")
            parsed = [(line, _reward(line)) for line in lines]
            rewards = [reward for _, reward in parsed if reward is not None]
            if rewards:
                await self._store.reward(rewards, replay=True)
            # Only now: while the store is away the same lines are read again and again.
            self._set_aside([line for line, reward in parsed if reward is None])
            file.done = end
            self.replayed += len(rewards)

    def _set_aside(self, lines: Sequence[bytes]) -> None:
        """Keep damaged lines. Raises OSError."""
        if not lines:
            return
        with (self._directory / "damaged.lines").open("ab") as aside:
            aside.write(b"".join(line + b"\n" for line in lines))
        self.damaged += len(lines)
        log.error(
            "%d lines of the spool are damaged or of another release; they were set aside in %s",
            len(lines),
            self._directory,
        )

    def _orphans(self) -> list[Path]:
        mine = {file.path for file in (self._file, *self._adopted) if file is not None}
        return sorted(path for path in self._directory.glob(f"*{_SUFFIX}") if path not in mine)

    async def close(self) -> None:
        """Close the file; rewards that still wait stay on the disk for the next process."""
        async with self._lock:  # a write in flight would go on into whatever file has its descriptor next
            if self._file is not None:
                if not self._file.waiting:
                    await asyncio.to_thread(self._file.remove)
                self._file.close()
                self._file = None
        while self._adopted:
            self._adopted.pop().close()
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
        """Create a file. Raises OSError."""
        path = directory / f"{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
        making = path.with_suffix(".new")
        try:
            descriptor = _created(making)
        except FileNotFoundError:  # another process has just removed the empty directory
            descriptor = _created(making)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            making.rename(path)  # under a name that others look for only once it is locked
            _sync(directory)  # a file whose name is not on the disk is not there after a power cut
        except OSError:
            # Each report tries again: descriptors and files would pile up while the disk fails.
            os.close(descriptor)
            making.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        return cls(path, descriptor)

    @classmethod
    def claimed(cls, path: Path) -> _File | None:
        """Lock the file of a dead process; None if its owner lives, or another process was faster."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise  # a file system without locks
        return cls(path, descriptor)

    @property
    def waiting(self) -> int:
        """Bytes not yet replayed."""
        return self.end - self.done

    def append(self, data: bytes) -> None:
        """Write to the disk. Raises OSError, and then nothing is added."""
        try:
            at = self.end
            while at < self.end + len(data):
                at += os.pwrite(self._descriptor, data[at - self.end :], at)
            os.fdatasync(self._descriptor)
        except OSError:
            # What was written of it must not be replayed: its client learns that nothing was kept.
            os.ftruncate(self._descriptor, self.end)
            raise
        self.end += len(data)

    def chunk(self) -> tuple[bytes, int]:
        """Whole lines from ``done`` on, and the position of their end."""
        data = os.pread(self._descriptor, min(_CHUNK_BYTES, self.waiting), self.done)
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


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(reward: Reward) -> bytes:
    text = json.dumps([reward.decision.hex(), *reward[1:]], separators=(",", ":"), ensure_ascii=False)
    body = text.encode("utf-8", "surrogatepass")
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _reward(line: bytes) -> Reward | None:
    """Parse a line; None if it is damaged, or no reward that this release could have written."""
    crc, _, body = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(body):
        return None
    try:
        # Strict: a store refuses half characters, and one such line would hold up all later ones.
        decision, *rest = json.loads(body.decode())
        reward = _REWARD.validate_python((bytes.fromhex(decision), *rest))
    except (ValueError, TypeError, RecursionError):
        return None
    fits = len(reward.decision) == 16 and 0 <= reward.epoch < 1 << 63 and 0 <= reward.unit < 1 << 64
    return reward if fits else None
