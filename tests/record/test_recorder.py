"""The recorder: bounded, batched, every outcome accounted for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from gateway.ingest.recorder import Recorder
from gateway.ingest.ring import BATCH_ROWS
from gateway.record.events import Batch, Outcome, Shadowed
from gateway.state.base import OutcomeFilter, StoreUnavailable
from gateway.state.sqlite import SqliteStore
from tests.support.made import T0, outcome, shadowed


class Away(SqliteStore):
    """A store that can be switched off, as a network would."""

    away = False

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        if self.away:
            raise StoreUnavailable("The store is switched off; switch it on.")
        await super().append(outcomes, shadowed)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Away]:
    made = Away(tmp_path / "store.db")
    await made.open()
    yield made
    await made.close()


def balanced(recorder: Recorder) -> bool:
    return recorder.offered == recorder.written + recorder.dropped.total() + recorder.waiting


async def test_what_is_offered_is_written(store: Away) -> None:
    batches: list[Sequence[Outcome]] = []
    recorder = Recorder(store, sinks=[batches.append])
    rows = [outcome(T0 + i) for i in range(2500)]
    for row in rows:
        recorder.offer(row)
    recorder.offer_shadowed(shadowed(of=rows[0]))
    assert recorder.waiting == 2501
    assert balanced(recorder)
    assert await recorder.flush()
    assert (recorder.written, recorder.waiting) == (2501, 0)
    assert balanced(recorder)
    assert [row for batch in batches for row in batch] == rows
    assert await store.outcomes(OutcomeFilter(limit=5000)) == rows[::-1]
    assert await store.agreement("digits") == {"v3": (1, 1, 1)}
    assert recorder.counts == {"offered": 2501, "written": 2501, "dropped": 0}


async def test_plain_tuples_are_outcomes(store: Away) -> None:
    recorder = Recorder(store)
    row = outcome(forced=True)
    recorder.offer(tuple(row))  # type: ignore[arg-type]
    recorder.offer(tuple(outcome(T0 + 1)))  # type: ignore[arg-type]
    assert await recorder.flush()
    assert (await store.decision(row.decision)).outcome == row
    assert (await store.counts("digits"))["v1"].assigned == 1


async def test_rows_offered_together_are_offered_each(store: Away) -> None:
    recorder = Recorder(store, capacity=5)
    rows = [outcome(T0 + i) for i in range(9)]
    recorder.offer(rows[0])
    recorder.offer_batch(Batch(rows[1:3]))
    recorder.offer_batch(Batch(rows[3:7]))
    assert (recorder.waiting, recorder.dropped) == (5, {"full": 2})
    assert balanced(recorder)
    await recorder.close()
    recorder.offer_batch(Batch(rows[7:]))
    assert recorder.dropped == {"full": 2, "closed": 2}
    assert balanced(recorder)
    assert await store.outcomes(OutcomeFilter(limit=10)) == rows[4::-1]


async def test_run_writes_by_itself(store: Away) -> None:
    recorder = Recorder(store, interval=0.01)
    running = asyncio.create_task(recorder.run())
    recorder.offer(outcome())
    async with asyncio.timeout(60):
        while recorder.written < 1:
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_while_the_store_is_away_batches_wait_and_what_is_too_much_is_counted(store: Away) -> None:
    seen: list[Outcome] = []
    recorder = Recorder(store, capacity=10, sinks=[seen.extend])
    store.away = True
    for i in range(6):
        recorder.offer(outcome(T0 + i))
    assert not await recorder.flush()
    for i in range(6, 20):
        recorder.offer(outcome(T0 + i))
    assert not await recorder.flush()
    assert (recorder.offered, recorder.waiting, recorder.dropped["full"]) == (20, 10, 10)
    assert balanced(recorder)
    store.away = False
    assert await recorder.flush()
    assert (recorder.written, recorder.waiting) == (10, 0)
    assert balanced(recorder)
    assert [o.time - T0 for o in seen] == list(range(10)), "a sink gets each outcome once"
    recorder.offer(outcome(T0 + 99))
    assert await recorder.flush()
    assert recorder.written == 11


async def test_close_writes_the_rest_and_takes_no_more(store: Away) -> None:
    recorder = Recorder(store)
    recorder.offer(outcome())
    await recorder.close()
    recorder.offer(outcome())
    assert (recorder.written, recorder.dropped["closed"], recorder.waiting) == (1, 1, 0)
    assert balanced(recorder)


async def test_close_gives_up_on_a_store_that_stays_away(store: Away) -> None:
    recorder = Recorder(store)
    recorder.offer(outcome())
    store.away = True
    await recorder.close(timeout=0.05)
    assert (recorder.written, recorder.dropped["store_unavailable"], recorder.waiting) == (0, 1, 0)
    assert balanced(recorder)


async def test_close_gives_up_on_a_store_that_fails_in_another_way(
    store: Away, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(store, "append", fails)
    recorder = Recorder(store)
    recorder.offer(outcome())
    await recorder.close()
    assert (recorder.written, recorder.dropped["store_unavailable"], recorder.waiting) == (0, 1, 0)
    assert balanced(recorder)
    assert "1 rows of the record could not be written" in caplog.text


async def test_a_sink_that_fails_harms_nobody_else(store: Away) -> None:
    def broken(batch: Sequence[Outcome]) -> None:
        raise RuntimeError("no")

    seen: list[Outcome] = []
    recorder = Recorder(store, sinks=[broken, seen.extend])
    recorder.offer(outcome())
    assert await recorder.flush()
    assert (recorder.written, recorder.sink_errors, len(seen)) == (1, 1, 1)


async def test_a_flush_cut_off_in_the_middle_loses_and_doubles_nothing(store: Away) -> None:
    recorder = Recorder(store)
    rows = [outcome(T0 + i / 10) for i in range(3000)]
    for row in rows:
        recorder.offer(row)
    flush = asyncio.create_task(recorder.flush())
    await asyncio.sleep(0.004)
    flush.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await flush
    assert balanced(recorder)
    await recorder.close()
    assert recorder.written == 3000
    assert (await store.counts("digits"))["v1"].assigned == 3000


class Odd(SqliteStore):
    """Fails once in a way that nobody thought of."""

    failures = 1

    async def append(self, outcomes: Sequence[Outcome], shadowed: Sequence[Shadowed] = ()) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a mistake of ours")
        await super().append(outcomes, shadowed)


async def test_a_mistake_in_writing_does_not_end_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Odd(tmp_path / "odd.db")
    await store.open()
    recorder = Recorder(store, interval=0.001)
    running = asyncio.create_task(recorder.run())
    recorder.offer(outcome(1))
    async with asyncio.timeout(60):
        while recorder.written < 1:
            await asyncio.sleep(0.01)
    assert "a mistake of ours" in caplog.text
    assert not running.done()
    running.cancel()
    await recorder.close()
    await store.close()


async def test_a_row_that_cannot_be_written_holds_up_no_other(
    store: Away, caplog: pytest.LogCaptureFixture
) -> None:
    """One row of an Envoy node with 30 digits as a size ended the record of the whole gateway."""
    recorder = Recorder(store)
    recorder.offer(outcome(request_bytes=10**30))
    with pytest.raises(OverflowError):
        await asyncio.wait_for(recorder.flush(), 60)
    recorder.offer(outcome(T0 + 1))
    assert await recorder.flush()
    assert (recorder.written, recorder.dropped["unwritable"]) == (1, 1)
    assert balanced(recorder)
    assert "1 rows of the record can't be written" in caplog.text
    assert (await store.counts("digits"))["v1"].assigned == 1


@pytest.mark.long
async def test_a_row_with_too_few_fields_holds_up_no_other(store: Away) -> None:
    recorder = Recorder(store)
    recorder.offer(cast("Outcome", outcome()[:-3]))
    for number in range(BATCH_ROWS):  # the batch after it is whole
        recorder.offer(outcome(T0 + number))
    assert await asyncio.wait_for(recorder.flush(), 60)
    assert (recorder.written, recorder.dropped["unwritable"]) == (BATCH_ROWS, 1)
    assert balanced(recorder)
    assert (await store.counts("digits"))["v1"].assigned == BATCH_ROWS
