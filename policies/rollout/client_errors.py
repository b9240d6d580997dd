"""Client errors of a canary's candidate where no guardrail is on them.

A candidate that rejects what the baseline accepts (422 for a changed schema, 404 for a model name) has no errors of its
own. Whether that is wanted only a person knows, so the rollout is not rolled back; but it is not promoted either, as
long as the candidate is shown to have clearly more client errors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from policies.rollout.guardrails import Judgement, judge
from policies.rollout.verdicts import Guardrail
from policies.sequential.metric_comparison import Evidence
from policies.types import CLIENT_ERROR_RATE, RewardSums

MAX_INCREASE: Final = 0.01
"""Above the baseline's rate. Without a margin, any difference would be shown in the end, however small."""
_LIMIT: Final = Guardrail(CLIENT_ERROR_RATE, max_increase=MAX_INCREASE)


def hold(judgement: Judgement, baseline: Evidence, candidate: Evidence, alpha: float) -> Judgement:
    """The judgement, with a verdict that keeps a stage from passing if the candidate has clearly more client errors.

    ``alpha``: probability of a wrong hold, over all looks at the window.
    """
    before, now = (e.rewards.get(CLIENT_ERROR_RATE, RewardSums()).mean for e in (baseline, candidate))
    if not now - before > MAX_INCREASE:  # the interval holds the difference itself, and takes a millisecond
        return judgement
    verdict = judge(_LIMIT, baseline, candidate, alpha, forecast=False)
    if verdict.verdict != "fail":
        return judgement
    reason = (
        f"client errors: {now:.1%} of the candidate's responses, {before:.1%} of the baseline's, and no guardrail is "
        f"on {CLIENT_ERROR_RATE}; write one with the increase that you accept, promote or roll back by hand, or repair "
        "the candidate and restart"
    )
    held = replace(verdict, verdict="inconclusive", reason=reason)
    return replace(judgement, verdicts=(*judgement.verdicts, held))


def held(judgement: Judgement) -> str:
    """ "" or why `hold` keeps the stage from passing."""
    return next((v.reason for v in judgement.verdicts if v.reason.startswith("client errors: ")), "")
