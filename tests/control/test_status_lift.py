"""``turnout status`` shows a variant's difference to the baseline with both intervals, and a bandit's guardrails."""

from __future__ import annotations

from gateway.commands.status import _lift, _shown, _variant


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
            },
            "probability_best": None,
        },
    )
    assert "ok +0.02 [+0.01, …] (+40.00% [+20.00%, +60.00%]) adjusted against v1" in text
    assert "error_rate +0.02 [+0.01, …] (+40.00% [+20.00%, +60.00%]) by unit against v1" in text
    assert "latency_p50" not in text


def test_two_that_were_never_both_drawn_are_not_compared() -> None:
    assert _lift("ok", {"baseline": "v1", "absolute": None}) == (
        "ok not comparable with v1: never both drawn at the same time"
    )


def test_the_guardrails_of_a_bandit_are_shown() -> None:
    verdict = {"variant": "v2", "metric": "error_rate", "verdict": "inconclusive", "more_requests": 40}
    route = {
        "route": "r",
        "policy": "bandit",
        "epoch": 3,
        "allocation": {"v1": 0.5, "v2": 0.5},
        "shadows": {},
        "rollout": None,
        "guardrails": [verdict],
    }
    assert "  v2: error_rate: inconclusive, about 40 more requests to the candidate\n" in _shown(route)
