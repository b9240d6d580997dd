"""``turnout status`` shows a variant's difference to the baseline with both intervals, and a bandit's guardrails."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.commands.status import _asked_of_a_person, _lift, _rollout, _shown, _variant, fitted


def test_the_difference_comes_with_its_intervals() -> None:
    lift = {
        "baseline": "v1",
        "absolute": 0.02,
        "interval": [0.01, None],
        "relative": 0.4,
        "relative_interval": [0.2, 0.6],
    }
    reward = {"count": 100, "mean": 0.07, "interval": None}
    text = _variant(
        "v2",
        {
            "assigned": 100,
            "errors": 0,
            "fallbacks": 0,
            "latency_ms": None,
            "rewards": {"ok": reward},
            "lift": {
                "ok": {**lift, "adjusted_by": "covariate"},
                "error_rate": {**lift, "unit": "units"},
                "latency_p50": lift,
                "latency_p99": {"baseline": "v1", "absolute": None},
            },
            "probability_best": None,
        },
        {"ok": {"type": "boolean"}},
    )
    assert "ok +2 [+1, …] pp (+40.00% [+20.00%, +60.00%]) adjusted against v1" in text
    assert "error_rate +2 [+1, …] pp (+40.00% [+20.00%, +60.00%]) by unit against v1" in text
    assert "latency_p50 +0.02 [+0.01, …] ms (+40.00% [+20.00%, +60.00%]) against v1" in text
    assert "latency_p99" not in text, "too few to tell"
    rare = {**lift, "relative_interval": [-1.0, 99.0]}
    assert (
        _lift("ok", rare, "number") == "ok +0.02 [+0.01, …] (baseline too uncertain for a ratio) against v1"
    )


def test_a_shadow_is_compared_with_the_primary() -> None:
    latency = {
        "p50": {
            "baseline": "primary",
            "absolute": 0.5,
            "interval": [0.2, 0.8],
            "relative": 0.1,
            "relative_interval": None,
        },
        "p99": None,
    }
    route = {
        "route": "r",
        "policy": "shadow",
        "epoch": 1,
        "allocation": {"v1": 1.0},
        "shadows": {"v2": 1.0, "v3": 1.0},
        "rollout": None,
        "agreement": {
            "v2": {"answers": 9, "compared": 8, "rate": 0.75, "interval": [0.3, 0.96]},
            "v3": {"answers": 0, "compared": 0, "rate": None, "interval": None},
        },
        "shadow_reports": {
            "v2": {"seen": 9, "failed": [["status 500", 1]], "latency": latency},
            "v3": {"seen": 0, "failed": [], "latency": {}},
        },
    }
    text = _shown(route)
    assert "  shadow v2: 75.0% of 8 agree [30.0%, 96.0%]; 1 of its last 9 failed; latency_p50 +0.5" in text
    assert "  shadow v3: 0 responses, none compared\n" in text
    assert "shadow v2: 75.0% of 8 agree" in _shown(route | {"shadow_reports": None}), (
        "a summary of all routes"
    )


def test_two_that_were_never_both_drawn_are_not_compared() -> None:
    assert _lift("ok", {"baseline": "v1", "absolute": None}, "share") == (
        "ok not comparable with v1: never both drawn at the same time"
    )


def test_the_guardrails_of_a_bandit_are_shown() -> None:
    verdict = {"variant": "v2", "metric": "error_rate", "verdict": "inconclusive", "more_requests": 40}
    route = {
        "route": "r", "policy": "bandit", "epoch": 3, "allocation": {"v1": 0.5, "v2": 0.5}, "shadows": {},
        "rollout": None, "guardrails": [verdict],
    }  # fmt: skip
    assert "  v2: error_rate: inconclusive, about 40 more requests to the candidate\n" in _shown(route)
    verdict |= {"more_requests": None, "reason": "5 of 100 samples"}
    assert "  v2: error_rate: inconclusive (5 of 100 samples)\n" in _shown(route)


@pytest.mark.parametrize(
    ("rollout", "line"),
    [
        ({"state": "running"}, "running, stage 2 at 50.0%"),
        (
            {"state": "promoted", "bake_until": 1.8e9},
            "promoted, after the last stage at 50.0%, guardrails watch until 20",
        ),
        ({"state": "promoted"}, "promoted, after the last stage at 50.0%"),
        (
            {"state": "rolled_back", "decided": {"source": "promoted"}},
            "rolled_back, after the last stage at 50.0%",
        ),
        ({"state": "rolled_back", "decided": {"source": "running"}}, "rolled_back, stage 2 at 50.0%"),
        ({"state": "running", "decided": {"source": "promoted"}}, "running, stage 2 at 50.0%"),
    ],
)
def test_a_rollout_in_its_bake_is_in_no_stage(rollout: dict[str, Any], line: str) -> None:
    if "decided" in rollout:
        rollout["decided"] |= {"time": 1.8e9, "actor": ""}
    base = {
        "phase": "canary", "stage": 1, "weight": 0.5, "verdicts": [], "reason": "", "bake_until": None,
        "decided": None,
    }  # fmt: skip
    first = _rollout(base | rollout)[0]
    assert first.startswith(f"  rollout: {line}")
    assert ("watch" in first) == ("bake_until" in rollout)


@pytest.mark.parametrize(
    ("possible", "command"), [(["confirm", "promote"], "confirm"), (["promote"], "promote")]
)
def test_a_rollout_that_waits_names_the_command(possible: list[str], command: str) -> None:
    (line,) = _asked_of_a_person("shop", {"state": "waiting", "possible": possible})
    assert line == f"    waits for you: turnout rollout shop {command} (or rollback)"
    assert list(_asked_of_a_person("shop", {"state": "running", "possible": possible})) == []
    (held,) = _asked_of_a_person("shop", {"state": "running", "possible": [*possible, "resume"]})
    assert held == "    waits for you: turnout rollout shop resume (or rollback)"


def test_a_report_fits_a_terminal() -> None:
    line = "  alarm: " + "the record lost decisions of v2; " * 12
    text = f"r: canary\n{line}\n  http://{'a' * 90}:1 is unhealthy (v2)"
    for width in (20, 80, 100):
        lines = fitted(text, width).splitlines()
        assert all(len(one) <= max(width, 40) or " " not in one.strip() for one in lines)
        assert all(one.startswith("      ") for one in lines[2:5])
        assert "".join(fitted(text, width).split()) == "".join(text.split())
