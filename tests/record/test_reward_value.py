"""What one decision counts as: the same as in the sums."""

from __future__ import annotations

import io
import json
import random
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.archive.record import WholeRecord
from gateway.config.service import MetricConfig
from gateway.ingest.evidence import rewarded
from gateway.ingest.export import export
from gateway.ingest.metric_values import worst
from gateway.ingest.reward_value import reward_value
from gateway.record.events import Outcome, Reward
from gateway.state.base import DecisionRecord
from gateway.state.sqlite import SqliteStore
from policies.types import RewardSums
from tests.support.made import T0, outcome, reward

METRICS = {
    "correct": MetricConfig(type="boolean", missing="zero", window=60.0),
    "complaint": MetricConfig(type="boolean", goal="minimize", missing="zero", window=60.0),
    "revenue": MetricConfig(type="real", missing="zero", window=600.0),
    "rating": MetricConfig(type="fraction"),
}


def some_record(seed: int) -> tuple[list[Outcome], list[Reward]]:
    rng = random.Random(seed)
    outcomes, rewards = [], []
    for k in range(300):
        variant, served, error = rng.choice(("v1", "v2")), "", rng.choice(("", "", "", "timeout"))
        served = variant if not error else rng.choice(("", "v3"))
        row = outcome(
            T0 + k / 2, assigned=variant, served=served, error=error, forced=rng.random() < 0.1, unit=k
        )
        outcomes.append(row)
        for name, metric in METRICS.items():
            if rng.random() < (0.4 if served else 0.1):
                value = rng.choice((0.0, 1.0, None))
                rewards.append(reward(value, of=row, metric=name, worst=worst(metric)))
    return outcomes, rewards


@pytest.mark.parametrize("seed", range(4))
async def test_the_rows_add_up_to_the_sums(tmp_path: Path, seed: int) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    outcomes, rewards = some_record(seed)
    await store.append(outcomes)
    await store.reward(rewards)
    now = T0 + 150 + 60  # the last windows of the short ones end now, and none of the long one's
    wanted: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in await store.records():
        assert record.outcome is not None
        for name, metric in METRICS.items():
            value = reward_value(record, name, metric, now=now)
            if value is not None:
                wanted[record.outcome.assigned, name].append(value)
    found = await rewarded(store, "digits", METRICS, now=now)
    await store.close()
    assert {key: one.values for key, one in found.items() if one.values.count and key[1] in METRICS} == {
        key: RewardSums(len(v), sum(v), sum(x * x for x in v)) for key, v in wanted.items()
    }


def test_a_metric_that_nobody_declares_any_more_counts_what_was_reported() -> None:
    row = outcome(T0)
    assert reward_value(DecisionRecord(row, (), ()), "gone", None, now=T0 + 1e9) is None
    assert (
        reward_value(DecisionRecord(row, (reward(0.5, of=row, metric="gone"),), ()), "gone", None, now=0)
        == 0.5
    )


async def test_an_export_says_what_counts(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    rows = [outcome(T0), outcome(T0 + 1), outcome(T0 + 100)]
    await store.append(rows)
    await store.reward([reward(1.0, of=rows[0])])
    target = io.BytesIO()
    await export(WholeRecord(store), target, format="jsonl", declared=METRICS, now=T0 + 70)
    lines = [json.loads(line) for line in target.getvalue().splitlines()]
    await store.close()
    assert [line["reward_correct"] for line in lines] == [1, None, None]
    assert [line["counts_correct"] for line in lines] == [1, 0, None]
    assert [line["counts_complaint"] for line in lines] == [0, 0, None]
    assert all("counts_rating" not in line for line in lines)
