"""Variants of a bandit that breached a guardrail: they get no more traffic until the policy's section is edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from policies.rollout.guardrails import Judgement
from policies.rollout.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Ejected:
    """The effect of a breach."""

    variant: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Ejections:
    """What the guardrails of one route's bandit have come to."""

    fingerprint: str = ""
    """Of the section that this is about; a canary's changes each time that its bandit begins."""
    since: float = 0.0
    """From when, in seconds since the epoch, the variants are compared."""
    ejected: Mapping[str, str] = field(default_factory=dict)
    """Variant → the breach."""
    judgement: Judgement | None = None
    """The guardrails of a canary's candidate, for its rollout and for every replica."""

    def under(self, fingerprint: str, now: float) -> Ejections:
        """These ejections, or none yet if the section was edited since."""
        if self.fingerprint != fingerprint:
            return Ejections(fingerprint, now)
        # A time to come: the clock was set back, and nothing would be compared for that long.
        return self if self.since <= now else replace(self, since=now)

    def as_dict(self) -> dict[str, Any]:
        judgement = self.judgement
        return {
            "fingerprint": self.fingerprint,
            "since": self.since,
            "ejected": dict(self.ejected),
            "judgement": None
            if judgement is None
            else {"verdicts": [v.as_dict() for v in judgement.verdicts], "sick": judgement.sick},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`. Raises KeyError or TypeError when ``data`` is not such a dict."""
        kept = data["judgement"]
        judgement = None
        if kept is not None:
            judgement = Judgement(tuple(map(Verdict.from_dict, kept["verdicts"])), kept["sick"])
        return cls(data["fingerprint"], data["since"], dict(data["ejected"]), judgement)


def breaches(judgements: Mapping[str, Judgement]) -> dict[str, Verdict]:
    """By variant, the first guardrail that fails, unless the baseline itself fails."""
    failing: dict[str, Verdict] = {}
    for variant, judgement in judgements.items():
        failed = [verdict for verdict in judgement.verdicts if verdict.verdict == "fail"]
        # A sick baseline says nothing about a variant.
        if failed and not judgement.sick:
            failing[variant] = failed[0]
    return failing


def look(
    state: Ejections, judgements: Mapping[str, Judgement], *, candidate: str | None, trusted: bool
) -> tuple[Ejections, tuple[Ejected, ...]]:
    """The ejections after a look at each variant.

    ``candidate``: of a canary, whose judgement is kept. ``trusted``: whether the comparison holds; otherwise nothing is
    ejected.
    """
    if candidate is not None and candidate in judgements:
        state = replace(state, judgement=judgements[candidate])
    new = breaches(judgements) if trusted else {}
    effects = tuple(Ejected(v, verdict) for v, verdict in new.items() if v not in state.ejected)
    if effects:
        added = {effect.variant: effect.verdict.breach() for effect in effects}
        state = replace(state, ejected={**state.ejected, **added})
    return state, effects
