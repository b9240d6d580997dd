"""Client errors of a canary's candidate where no guardrail is on them.

A candidate that rejects what the baseline accepts (422 for a changed schema, 404 for a model name) has no errors of its
own. Whether that is wanted only a person knows, so the rollout is not rolled back; but it is not promoted either, as
long as the candidate is shown to have clearly more client errors, or than a person accepted for the stage.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from policies.rollout.guardrails import Judgement, judge
from policies.rollout.verdicts import Guardrail, Verdict
from policies.sequential.metric_comparison import Evidence
from policies.types import CLIENT_ERROR_RATE, RewardSums

MAX_INCREASE: Final = 0.01
"""Above the baseline's rate. Without a margin, any difference would be shown in the end, however small."""


def hold(
    judgement: Judgement, baseline: Evidence, candidate: Evidence, alpha: float, accepted: float = 0.0
) -> Judgement:
    """The judgement, with a verdict that keeps a stage from passing if the candidate has clearly more client errors.

    ``alpha``: probability of a wrong hold, over all looks at the window; ``accepted``: as `State.accepted`.
    """
    before, now = (e.rewards.get(CLIENT_ERROR_RATE, RewardSums()).mean for e in (baseline, candidate))
    limit = accepted + MAX_INCREASE
    if not now - before > limit:  # the interval holds the difference itself, and takes a millisecond
        return judgement
    rail = Guardrail(CLIENT_ERROR_RATE, max_increase=limit)
    verdict = judge(rail, baseline, candidate, alpha, forecast=False)
    if verdict.verdict != "fail":
        return judgement
    more = f", more than the {100 * accepted:+.1f} pp that were accepted" if accepted else ""
    reason = (
        f"client errors: {now:.1%} of the candidate's responses, {before:.1%} of the baseline's{more}, and no "
        f"guardrail is on {CLIENT_ERROR_RATE}; resume to accept them for this stage, write a guardrail with the "
        "increase that you accept, or repair the candidate and restart"
    )
    held = replace(verdict, verdict="inconclusive", reason=reason)
    return replace(judgement, verdicts=(*judgement.verdicts, held))


def held(judgement: Judgement) -> Verdict | None:
    """The verdict with which `hold` keeps the stage from passing."""
    return next((v for v in judgement.verdicts if v.reason.startswith("client errors: ")), None)


def increase(judgement: Judgement) -> float | None:
    """By how much more client errors hold the stage; None: they do not."""
    verdict = held(judgement)
    return None if verdict is None else verdict.estimate
