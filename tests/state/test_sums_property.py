"""Whatever the order of reports, corrections and retractions: the sums are those of the final values."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.record.events import Reward
from gateway.state.exact import ExactSums
from gateway.state.sqlite import SqliteStore
from policies.types import RewardSums
from tests.support.made import T0, outcome, reward

ABOUT = [outcome(T0) for _ in range(4)]
value = st.none() | st.sampled_from([0.0, 1.0]) | st.floats(-1e100, 1e100)
report = st.tuples(st.integers(0, 3), st.sampled_from(["correct", "amount"]), value)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(report, min_size=1, max_size=8), max_size=8))
def test_any_interleaving_ends_in_the_sums_of_the_final_values(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, str, float | None]]]
) -> None:
    path = tmp_path_factory.mktemp("sums") / "store.db"
    final: dict[tuple[int, str], float | None] = {}
    calls: list[list[Reward]] = []
    for batch in batches:
        calls.append([reward(v, of=ABOUT[i], metric=metric) for i, metric, v in batch])
        final.update({(i, metric): v for i, metric, v in batch})
    found = asyncio.run(_sums_after(path, calls))
    expected: dict[tuple[str, str], ExactSums] = {}
    for (_, metric), v in final.items():
        if v is not None:
            expected.setdefault(("v1", metric), ExactSums()).report(v)
    assert found == {key: sums.rounded for key, sums in expected.items()}


async def _sums_after(path: Path, calls: Sequence[list[Reward]]) -> dict[tuple[str, str], RewardSums]:
    store = SqliteStore(path)
    await store.open()
    try:
        for call in calls:
            await store.reward(call)
        return await store.reward_sums("digits")
    finally:
        await store.close()
