"""A rollout's state as one verdict, for other controllers: Argo Rollouts, Flagger, a pipeline.

Pure: a function of the rollout as the API describes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final

Json = dict[str, Any]

_OF_STATE: Final = {
    "promoted": "pass",
    "waiting": "pass",
    "rolled_back": "fail",
    "halted": "error",
    "paused": "inconclusive",
}
"""State of a rollout → its verdict; for a running one its guardrails decide."""
_WATCHED: Final = frozenset({"waiting", "paused"})
"""States in which the verdict is ``error`` while guardrails can't be evaluated, or trusted."""
_ORDER: Final = ("fail", "error", "inconclusive", "pass")
"""The worst guardrail decides: verdicts in order of precedence."""


def waits_for_confirmation(rollout: Mapping[str, Any]) -> bool:
    """Whether the next stage waits for a person."""
    return "confirm" in rollout.get("possible", ())


def of_rollout(rollout: Mapping[str, Any], now: float) -> Json:
    """Return whether the candidate may take over: ``pass`` only once every stage has passed."""
    found = of_stage(rollout, now)
    if rollout["state"] in _OF_STATE or found["verdict"] != "pass":
        return found
    return {**found, "verdict": "inconclusive", "reasons": [_open_stage(rollout)]}


def _open_stage(rollout: Mapping[str, Any]) -> str:
    match rollout["phase"]:
        case "bandit":
            return "every stage has passed; a bandit decides on the share"
        case "shadow":
            return "the gate holds; the stages are still to come"
    return f"stage {rollout['stage'] + 1} of {rollout['stages']} holds; the rollout has not ended"


def of_stage(rollout: Mapping[str, Any], now: float) -> Json:
    """Return whether the current stage passes: its guardrails, its minimum time, its samples.

    A rollout that does not run has no current stage: its state decides, not the guardrails of its next run.
    """
    state = rollout["state"]
    rails: Sequence[Mapping[str, Any]] = rollout.get("verdicts") or ()
    if state in _OF_STATE:
        reason = rollout.get("reason") or "no reason was given"
        doubts = [_reason(r) for r in rails if state in _WATCHED and r["verdict"] == "error"]
        verdict = "inconclusive" if waits_for_confirmation(rollout) else _OF_STATE[state]
        return _verdict_json("error" if doubts else verdict, [f"{state}: {reason}", *doubts], ())
    reasons = [_reason(rail) for rail in rails if rail["verdict"] != "pass"]
    verdict = next((v for v in _ORDER if any(rail["verdict"] == v for rail in rails)), "pass")
    minutes = ((rollout.get("stage_ends") or now) - now) / 60
    samples = (rollout.get("min_samples") or 0) - (rollout.get("samples") or 0)
    if verdict == "pass" and rollout.get("waits"):
        verdict, reasons = "inconclusive", [rollout["waits"]]
    elif verdict == "pass" and minutes > 0:
        verdict, reasons = "inconclusive", [f"the stage lasts {minutes:.1f} minutes more"]
    if verdict in ("pass", "inconclusive") and samples > 0:
        verdict, reasons = (
            "inconclusive",
            [*reasons, f"the stage needs {samples:g} more samples of the candidate"],
        )
    return _verdict_json(verdict, reasons, rails, requests=max(samples, 0), minutes=max(minutes, 0.0))


def _reason(rail: Mapping[str, Any]) -> str:
    text = f"{rail['metric']}: {rail['verdict']}, {rail['bound']} {rail['limit']:g}"
    if rail.get("estimate") is not None and rail.get("interval") is not None:
        low, high = ("?" if end is None else f"{end:.4g}" for end in rail["interval"])
        text += f", estimate {rail['estimate']:.4g} ({low} to {high})"
    return f"{text}, {rail['reason']}" if rail.get("reason") else text


def _verdict_json(
    verdict: str,
    reasons: Sequence[str],
    rails: Sequence[Mapping[str, Any]],
    *,
    requests: float = 0,
    minutes: float = 0.0,
) -> Json:
    """``needs`` estimates what a decision still requires; null if there is no estimate."""
    open_rails = [rail for rail in rails if rail["verdict"] == "inconclusive"]
    unknown = any(rail.get("more_requests") is None for rail in open_rails)
    more = max((rail.get("more_requests") or 0 for rail in open_rails), default=0)
    longer = max((rail.get("minutes") or 0.0 for rail in open_rails), default=0.0)
    done = verdict != "inconclusive"
    return {
        "verdict": verdict,
        "reasons": list(reasons),
        "needs": {
            "requests": 0 if done else None if unknown else ceil(max(more, requests)),
            "minutes": 0.0 if done else None if unknown else round(max(longer, minutes), 1),
        },
    }


# Flagger ------------------------------------------------------------------------------------------------
HOOKS: Final[Mapping[str, tuple[str, ...]]] = {
    "confirm-rollout": ("inconclusive",),
    "pre-rollout": ("inconclusive",),
    "rollout": ("pass", "inconclusive", "error"),  # or Flagger rolls back after `threshold` times
    "confirm-traffic-increase": ("pass",),
    "confirm-promotion": ("pass",),
    "rollback": ("fail",),
    "post-rollout": _ORDER,
    "event": _ORDER,
}
"""Type of a Flagger webhook → the verdicts with a 200 response; any other stops Flagger."""
_ENDED: Final = frozenset({"waiting", "promoted", "rolled_back"})
STAGE_HOOKS: Final = frozenset({"rollout", "confirm-traffic-increase"})
"""The webhooks that concern only the current step."""


def has_ended(rollout: Mapping[str, Any]) -> bool:
    """Whether the rollout has its verdict, which says nothing about another revision."""
    return rollout["state"] in _ENDED and not waits_for_confirmation(rollout)
