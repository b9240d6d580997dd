from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from policies.rollout.state import Gate, Plan, Stage
from policies.rollout.verdicts import Guardrail
from policies.simulation.rollout import (
    COMPLAINT,
    CanaryWorld,
    RolloutReport,
    Service,
    ValueMetric,
    _buckets,
    edges,
    horizon,
    run,
    standard,
)

PLAN = Plan("v1", "v2", (Stage(0.2, 120), Stage(0.5, 120)))
ERRORS = (Guardrail("error_rate", max_increase=0.01),)
WORLDS = standard(rate=50.0, seconds=3600.0)


def simulate(name: str, guardrails: tuple[Guardrail, ...] = ERRORS, repetitions: int = 4) -> RolloutReport:
    return run(PLAN, guardrails, WORLDS[name], repetitions=repetitions, tick=60.0, seed=4)


def test_sound_candidates_are_promoted_and_faulty_ones_rolled_back() -> None:
    sound, faulty = simulate("equal"), simulate("errors")
    assert sound.ended["promoted"].value >= 0.9
    assert set(faulty.ended) == {"rolled_back"}
    assert faulty.ended["rolled_back"].low == pytest.approx(0.025 ** (1 / 4))
    assert faulty.time_to_detect.value < 1200
    assert sound.time_to_detect.value == math.inf


@pytest.mark.long
def test_a_candidate_that_rejects_requests_is_held_or_with_a_guardrail_rolled_back() -> None:
    world = replace(WORLDS["equal"], candidate=Service(client_error_rate=0.06))
    rail = Guardrail("client_error_rate", max_increase=0.01)
    for guardrails, end in (ERRORS, "running"), ((), "running"), ((rail,), "rolled_back"):
        report = run(PLAN, guardrails, world, repetitions=3, tick=60.0, seed=4)
        assert set(report.ended) == {end}


def test_where_a_bandit_takes_over_the_simulation_ends() -> None:
    plan = replace(PLAN, bandit="single")
    sound = run(plan, ERRORS, WORLDS["equal"], repetitions=4, tick=60.0, seed=4)
    assert set(sound.ended) == {"bandit"}
    assert sound.time_to_end.value < 3600
    faulty = run(plan, ERRORS, WORLDS["errors"], repetitions=4, tick=60.0, seed=4)
    assert set(faulty.ended) == {"rolled_back"}


@pytest.mark.slow
def test_no_false_alarm_though_looked_at_all_the_time() -> None:
    report = run(PLAN, ERRORS, WORLDS["equal"], repetitions=40, tick=30.0, seed=1)
    assert report.ended.get("rolled_back", (0, 0, 0))[1] <= 0.05


def test_a_candidate_that_breaks_later_is_caught_after_it_did() -> None:
    world = replace(WORLDS["breaks later"], turns_at=100.0)
    report = run(PLAN, ERRORS, world, repetitions=3, tick=15.0, seed=4)
    assert report.ended["rolled_back"].value == 1.0
    assert 0 < report.time_to_detect.value < 120


def test_what_is_rolled_back_before_it_breaks_is_not_detected() -> None:
    """The time to detect it was below zero."""
    failing = Service(error_rate=0.5)
    world = replace(WORLDS["errors"], candidate=failing, turned=failing, turns_at=3000.0)
    report = run(PLAN, ERRORS, world, repetitions=3, tick=15.0, seed=4)
    assert report.ended["rolled_back"].value == 1.0
    assert report.time_to_detect.value == math.inf


def test_a_rate_beyond_what_can_be_drawn_is_refused_and_no_interval_goes_below_zero() -> None:
    with pytest.raises(ValueError, match="smaller rate"):
        run(PLAN, ERRORS, replace(WORLDS["equal"], rate=1e300))
    assert run(PLAN, ERRORS, replace(WORLDS["equal"], seconds=1.0), repetitions=2).exposed.low >= 0.0


def test_a_sick_baseline_halts() -> None:
    assert set(simulate("sick baseline").ended) == {"halted"}


def test_rewards_and_latency_are_watched_too() -> None:
    wrong = simulate("wrong responses", (Guardrail("correct", max_decrease=0.02),), repetitions=5)
    slow = simulate("slow", (Guardrail("latency_p99", max_ratio=1.2),), repetitions=2)
    assert set(wrong.ended) == set(slow.ended) == {"rolled_back"}


@pytest.mark.parametrize(
    ("metric", "worse"),
    [
        (ValueMetric("m", "real", 2.0, 2.0, 3.0), 1.6),
        (ValueMetric("m", "count", 2.0, 2.0, 1.0), 1.6),
        (ValueMetric("m", "count", 2.0, 2.0, 3.0), 1.6),
        (ValueMetric("m", "real", 2.0, 2.0, 3.0, (0.0, 10.0)), 1.6),
    ],
)
def test_real_and_count_metrics_are_watched_in_their_own_unit(metric: ValueMetric, worse: float) -> None:
    rails = (Guardrail("m", max_decrease=0.1),)
    for candidate, end in ((metric.candidate, "promoted"), (worse, "rolled_back")):
        world = replace(
            WORLDS["equal"], values=(replace(metric, candidate=candidate),), seconds=40_000.0, rate=20.0
        )
        report = run(PLAN, rails, world, repetitions=2, tick=200.0, seed=2)
        assert set(report.ended) == {end}


@pytest.mark.parametrize(
    "metric",
    [
        ValueMetric("m", "real", 2.0, 1.0, 3.0),
        ValueMetric("m", "count", 2.0, 1.0, 1.0),
        ValueMetric("m", "count", 2.0, 1.0, 3.0),
    ],
)
def test_values_have_the_mean_and_the_deviation_that_they_should(metric: ValueMetric) -> None:
    sums = metric.draw(np.random.default_rng(1), metric.baseline, 200_000)
    deviation = math.sqrt(sums.squares / sums.count - sums.mean**2)
    assert sums.mean == pytest.approx(2.0, rel=0.02)
    assert deviation == pytest.approx(max(metric.sd, math.sqrt(2.0)), rel=0.03)


def test_values_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        ValueMetric("m", "real", 2.0, 0.0, 1.0)


def test_few_requests_decide_nothing() -> None:
    world = replace(WORLDS["ten an hour"], seconds=18_000.0)
    report = run(PLAN, ERRORS, world, repetitions=2, tick=600.0, seed=1)
    assert set(report.ended) == {"running"}
    assert report.exposed.value < 100


def test_reports_repeat_and_are_plain_data() -> None:
    one, two = simulate("errors", repetitions=2), simulate("errors", repetitions=2)
    assert one == two
    data = json.loads(json.dumps(simulate("equal", repetitions=2).as_dict()))
    assert data["time_to_detect"]["value"] is None


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    world = CanaryWorld("w", Service(), Service(), seconds=60.0)
    run(PLAN, ERRORS, world, repetitions=2, tick=30.0, progress=lambda *a: told.append(a))
    assert told == [(1, 2), (2, 2)]


def test_buckets_are_those_of_the_distribution() -> None:
    service = Service(latency_ms=20.0, spread=0.4)
    first, p = _buckets(service)
    assert p.sum() == pytest.approx(1.0)
    ends = np.array([edges(first + k) for k in range(len(p))])
    assert (ends[1:, 0] == ends[:-1, 1]).all()
    median = ends[np.searchsorted(np.cumsum(p), 0.5)]
    assert median[0] <= 20.0 <= median[1] * 1.0001
    p99 = ends[np.searchsorted(np.cumsum(p), 0.99)]
    exact = 20.0 * math.exp(0.4 * 2.3263478740408408)
    assert p99[0] <= exact <= p99[1]


def test_a_gate_lets_those_through_that_agree_and_exposes_nobody_to_the_others() -> None:
    plan = replace(PLAN, gate=Gate(0.98))
    alike = replace(WORLDS["equal"], candidate=Service(agrees=0.999))
    other = replace(WORLDS["equal"], candidate=Service(agrees=0.9))
    one, two = (run(plan, ERRORS, world, repetitions=3, tick=60.0, seed=4) for world in (alike, other))
    assert set(one.ended) == {"promoted"}
    assert set(two.ended) == {"rolled_back"}
    assert two.exposed.value == 0


def test_what_is_to_be_kept_low_is_watched_too() -> None:
    wrong = simulate("wrong responses", (Guardrail(COMPLAINT, max_increase=0.02),), repetitions=2)
    assert set(wrong.ended) == {"rolled_back"}


def test_a_sound_candidate_comes_to_its_end_within_the_horizon() -> None:
    for plan, rate in ((PLAN, 100.0), (replace(PLAN, patience=3600.0), 1.0)):
        world = replace(WORLDS["equal"], rate=rate, seconds=horizon(plan, rate))
        report = run(plan, ERRORS, world, repetitions=2, tick=world.seconds / 50, seed=4)
        assert "running" not in report.ended
    assert horizon(PLAN, 1e9) == 600.0
