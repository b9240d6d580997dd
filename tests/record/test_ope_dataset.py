from __future__ import annotations

import pytest

from gateway.config.service import MetricConfig
from gateway.ingest.ope_dataset import OffPolicyDataset
from gateway.record.events import Outcome, Reward
from gateway.state.base import DecisionRecord
from tests.support.made import T0, outcome, reward


def record(about: Outcome, *rewards: Reward) -> DecisionRecord:
    return DecisionRecord(about, rewards, ())


def value(
    about: Outcome, *rewards: Reward, metric: MetricConfig | None = None, now: float = T0 + 1e6
) -> float | None:
    dataset = OffPolicyDataset("correct", metric, now)
    (row,) = dataset.rows([record(about, *rewards)])
    return row.reward


ZERO = MetricConfig(type="boolean", missing="zero", window=60.0)


def test_a_row_says_who_was_assigned_how_likely_and_what_came() -> None:
    about = outcome(assigned="v2", served="v2", propensity=0.125, features='{"tier":"paid"}')
    dataset = OffPolicyDataset("correct")
    (row,) = dataset.rows([record(about, reward(0.0, of=about, metric="other"), reward(1.0, of=about))])
    assert (row.variant, row.propensity, row.reward) == ("v2", 0.125, 1.0)
    assert row.unit == 0xFEDCBA9876543210
    assert row.features == {"tier": "paid"}
    assert not row.forced


def test_decisions_without_a_unit_are_each_their_own() -> None:
    dataset = OffPolicyDataset("correct")
    rows = dataset.rows([record(outcome(sticky=False)), record(outcome(sticky=False, forced=True))])
    assert [row.unit for row in rows] == [None, None]
    assert [row.forced for row in rows] == [False, True]


def test_nothing_reported_or_retracted_is_no_reward() -> None:
    about = outcome()
    assert value(about) is None
    assert value(about, reward(None, of=about)) is None
    assert value(about, metric=MetricConfig(type="boolean")) is None


def test_a_rescue_is_not_credited() -> None:
    about = outcome(assigned="v2", served="v1", fallback=True, error="timeout")
    assert value(about, reward(1.0, of=about, worst=0.0)) == 0.0
    assert value(about, reward(1.0, of=about, worst=None)) is None


def test_a_missing_value_counts_as_the_metric_says() -> None:
    assert value(outcome(), metric=ZERO) == 0.0
    assert value(outcome(), reward(None, of=outcome()), metric=ZERO) == 0.0
    complaints = MetricConfig(type="boolean", goal="minimize", missing="zero", window=60.0)
    assert value(outcome(), metric=complaints) == 0.0
    assert value(outcome(error="timeout", served=""), metric=complaints) == 1.0


@pytest.mark.parametrize("rewarded", [False, True])
def test_while_its_window_is_open_a_decision_is_left_out_rewarded_or_not(rewarded: bool) -> None:
    about = outcome()
    rewards = (reward(1.0, of=about),) if rewarded else ()
    dataset = OffPolicyDataset("correct", ZERO, now=T0 + 59)
    assert dataset.rows([record(about, *rewards)]) == []
    assert dataset.window_open == 1
    ended = OffPolicyDataset("correct", ZERO, now=T0 + 60)
    assert len(ended.rows([record(about, *rewards)])) == 1
    assert ended.window_open == 0


def test_rewards_whose_outcome_is_lost_are_passed_over() -> None:
    dataset = OffPolicyDataset("correct")
    assert dataset.rows([DecisionRecord(None, (reward(),), ())]) == []


def test_what_a_policy_learned_from_is_left_out() -> None:
    dataset = OffPolicyDataset("correct", skip=3)
    sizes = [len(dataset.rows([record(outcome())] * 2)) for _ in range(3)]
    assert sizes == [0, 1, 2]
