"""The spool: on the disk before it is answered, replayed in order, whoever died."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.ingest.spool import Spool
from gateway.record.events import Reward
from gateway.state.base import RewardResult, StoreUnavailable
from gateway.state.sqlite import SqliteStore
from policies.types import RewardSums
from tests.support.made import T0, outcome, reward


class Away(SqliteStore):
    away = True
    calls = 0

    async def reward(self, rewards_: Sequence[Reward], *, replay: bool = False) -> list[RewardResult]:
        self.calls += 1
        if self.away:
            raise StoreUnavailable("The store is switched off; switch it on.")
        return await super().reward(rewards_, replay=replay)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Away]:
    made = Away(tmp_path / "store.db")
    await made.open()
    yield made
    await made.close()


async def sums(store: Away) -> RewardSums:
    return (await store.reward_sums("digits")).get(("v1", "correct"), RewardSums())


async def test_what_is_spooled_reaches_the_store_when_it_is_back(store: Away, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", store)
    assert not spool.waiting
    one, other = reward(1.0), reward(0.5, tags='{"ü":"\\n"}', unit=2**64 - 1)
    await asyncio.gather(spool.add([one]), spool.add([other]))
    await spool.add([one._replace(value=0.25, time=one.time + 1)])
    assert spool.waiting
    with pytest.raises(StoreUnavailable):
        await spool.replay()
    assert spool.waiting
    store.away = False
    assert await spool.replay() == 3
    assert not spool.waiting
    assert await sums(store) == RewardSums(2, 0.75, 0.3125)
    assert (await store.decision(other.decision)).rewards == (other,)
    assert await spool.replay() == 0
    await spool.add([reward(1.0)])
    assert await spool.replay() == 1
    await spool.close()
    assert not (tmp_path / "spool").exists()


async def test_a_replay_that_breaks_off_begins_again(store: Away, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", store)
    batch = [reward(1.0, of=outcome(T0 + i)) for i in range(50)]
    await spool.add(batch)
    store.away = False
    await store.reward(batch[:20], replay=True)
    assert await spool.replay() == 50
    assert await sums(store) == RewardSums(50, 50.0, 50.0)


async def test_a_correction_made_meanwhile_is_not_overridden(store: Away, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", store)
    one = reward(1.0)
    await spool.add([one])
    store.away = False
    await store.reward([one._replace(value=0.0, time=one.time + 10)])
    await spool.replay()
    assert await sums(store) == RewardSums(1, 0.0, 0.0)


async def test_many_rewards_are_replayed_in_pieces(store: Away, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", store)
    await spool.add([reward(1.0, of=outcome(T0 + i)) for i in range(5000)])
    store.away = False
    store.calls = 0
    assert await spool.replay() == 5000
    assert store.calls > 2
    assert await sums(store) == RewardSums(5000, 5000.0, 5000.0)


async def test_another_process_takes_over_what_a_dead_one_left(store: Away, tmp_path: Path) -> None:
    dead, alive = Spool(tmp_path / "spool", store), Spool(tmp_path / "spool", store)
    await dead.add([reward(1.0)])
    await alive.add([reward(1.0)])
    store.away = False
    assert await alive.replay() == 1, "the other's file is locked while it lives"
    await dead.close()
    assert await alive.replay() == 1
    assert await sums(store) == RewardSums(2, 2.0, 2.0)


async def test_a_torn_or_damaged_line_is_set_aside(store: Away, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", store)
    for i in range(3):
        await spool.add([reward(1.0, of=outcome(T0 + i))])
    await spool.close()
    (path,) = (tmp_path / "spool").glob("*.spool")
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[1].replace(b"correct", b"corrupt")
    path.write_bytes(lines[0] + damaged + lines[2] + lines[0][:30])
    store.away = False
    again = Spool(tmp_path / "spool", store)
    assert await again.replay() == 2
    assert again.damaged == 2
    assert (tmp_path / "spool" / "damaged.lines").read_bytes() == damaged + lines[0][:30] + b"\n"
    assert not path.exists()


async def test_a_line_that_another_release_wrote_does_not_hold_up_the_others(
    store: Away, tmp_path: Path
) -> None:
    directory, good = tmp_path / "spool", reward(1.0)
    fields = [good.decision.hex(), *good[1:]]
    newer = [*fields, "a field that this release lacks"]
    odd = [[good.decision.hex(), "correct", "high", *good[3:]], [*fields[:8], 10**30, *fields[9:]], {"a": 1}]
    directory.mkdir()
    (directory / "1.spool").write_bytes(b"".join(map(line, (newer, *odd, fields))))
    store.away = False
    spool = Spool(directory, store)
    assert await spool.replay() == 1
    assert spool.damaged == 4
    assert (directory / "damaged.lines").read_bytes() == b"".join(map(line, (newer, *odd)))
    assert await sums(store) == RewardSums(1, 1.0, 1.0)


async def test_files_that_wait_for_the_store_are_not_kept_from_later_replays(
    store: Away, tmp_path: Path
) -> None:
    for _ in range(2):
        dead = Spool(tmp_path / "spool", store)
        await dead.add([reward(1.0)])
        await dead.close()
    bytes_left = sum(file.stat().st_size for file in (tmp_path / "spool").iterdir())
    spool, other = Spool(tmp_path / "spool", store), Spool(tmp_path / "spool", store)
    with pytest.raises(StoreUnavailable):
        await spool.replay()
    assert await other.replay() == 0, "the first has taken them over"
    assert (spool.waiting_bytes, other.waiting_bytes) == (bytes_left, 0)
    await spool.close()
    with pytest.raises(StoreUnavailable):
        await other.replay()
    assert other.waiting_bytes == bytes_left
    store.away = False
    assert await other.replay() == 2
    assert other.waiting_bytes == 0


async def test_a_file_that_cannot_be_replayed_does_not_hold_up_the_others(
    store: Away, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "spool"
    (directory / "1.spool").mkdir(parents=True)
    (tmp_path / "secret").write_text("not a spool")
    (directory / "2.spool").symlink_to(tmp_path / "secret")
    dead = Spool(directory, store)
    await dead.add([reward(1.0)])
    await dead.close()
    store.away = False
    spool = Spool(directory, store)
    assert await spool.replay() == 1
    assert await spool.replay() == 0
    assert [record.args[0] for record in caplog.records] == [directory / "1.spool", directory / "2.spool"]  # type: ignore[index]
    assert not (directory / "damaged.lines").exists()


async def test_a_damaged_line_is_set_aside_once_however_long_the_store_is_away(
    store: Away, tmp_path: Path
) -> None:
    directory, good = tmp_path / "spool", reward(1.0)
    directory.mkdir()
    (directory / "1.spool").write_bytes(b"torn\n" + line([good.decision.hex(), *good[1:]]))
    spool = Spool(directory, store)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await spool.replay()
    store.away = False
    assert await spool.replay() == 1
    assert ((directory / "damaged.lines").read_bytes(), spool.damaged) == (b"torn\n", 1)


async def test_a_file_that_someone_emptied_is_left_and_not_read_without_end(
    store: Away, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "spool", store)
    await spool.add([reward(1.0)])
    (path,) = (tmp_path / "spool").glob("*.spool")
    os.truncate(path, 0)
    store.away = False
    assert await asyncio.wait_for(spool.replay(), 60) == 0
    assert "was cut short" in caplog.text
    await spool.add([reward(1.0)])
    assert (await spool.replay(), spool.damaged) == (1, 0)


async def test_text_that_no_store_can_hold_does_not_hold_up_the_others(store: Away, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", store)
    await spool.add([reward(1.0, tags='{"a":"\ud800"}')])
    await spool.add([reward(1.0)])
    store.away = False
    assert await spool.replay() == 1
    assert (spool.damaged, spool.waiting) == (1, False)


async def test_a_disk_that_goes_on_failing_costs_no_descriptors_and_leaves_no_files(
    store: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    spool = Spool(tmp_path / "spool", store)
    for call in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os if call == "fsync" else Path, call, fails)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                with pytest.raises(StoreUnavailable, match="Input/output"):
                    await spool.add([reward(1.0)])
            assert len(os.listdir("/proc/self/fd")) < before + 10
        assert not list((tmp_path / "spool").iterdir())
    await spool.add([reward(1.0)])


def line(fields: object) -> bytes:
    body = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


async def test_a_spool_that_cannot_be_written_says_so(store: Away, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", store)
    with pytest.raises(StoreUnavailable, match="writable"):
        await spool.add([reward()])
    assert not spool.waiting


async def test_callers_learn_that_no_thread_can_write_the_spool(
    store: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had no response, since the task that wrote had ended."""

    async def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    spool = Spool(tmp_path / "spool", store)
    monkeypatch.setattr(asyncio, "to_thread", no_thread)
    with pytest.raises(StoreUnavailable, match="can't start new thread"):
        await asyncio.wait_for(spool.add([reward()]), 30)
    monkeypatch.undo()
    await spool.add([reward()])


async def test_a_disk_that_fills_up_takes_nothing_half(
    store: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", store)
    await spool.add([reward(1.0)])
    (path,) = (tmp_path / "spool").glob("*.spool")
    before = path.read_bytes()
    real = os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        if at == len(before):
            return real(descriptor, data[:10], at)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        await spool.add([reward(1.0)])
    monkeypatch.undo()
    assert path.read_bytes() == before
    await spool.add([reward(1.0)])
    store.away = False
    assert await spool.replay() == 2


async def test_a_write_in_flight_ends_before_its_file_is_closed(
    store: Away, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", store)
    await spool.add([reward(1.0)])
    begun, go_on, sync = threading.Event(), threading.Event(), os.fdatasync

    def slow(descriptor: int) -> None:
        begun.set()
        go_on.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    adding = asyncio.create_task(spool.add([reward(1.0)]))
    await asyncio.to_thread(begun.wait, 60)
    closing = asyncio.create_task(spool.close())
    for _ in range(10):
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(adding, closing)
    store.away = False
    assert await Spool(tmp_path / "spool", store).replay() == 2


async def test_a_caller_that_gives_up_does_not_hold_up_the_others(store: Away, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", store)
    first = asyncio.create_task(spool.add([reward(1.0)]))
    second = asyncio.create_task(spool.add([reward(1.0)]))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()


VICTIM = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from gateway.ingest.spool import Spool
from tests.support.made import T0, outcome, reward

async def main():
    spool = Spool(sys.argv[1], None)
    number = 0
    while True:
        number += 1
        await spool.add([reward(1.0, of=outcome(T0 + number))])
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.long
async def test_a_sigkill_loses_nothing_that_was_answered(store: Away, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", VICTIM, str(tmp_path / "spool"), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        acknowledged = 0
        while acknowledged < 40:
            acknowledged = int(victim.stdout.readline())
        victim.send_signal(signal.SIGKILL)
        rest = victim.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
    store.away = False
    spool = Spool(tmp_path / "spool", store)
    assert await spool.replay() >= acknowledged
    assert (await sums(store)).count >= acknowledged
