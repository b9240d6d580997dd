"""The shapes of the stored state of a route (`gateway.state.shapes`): where its reducers are, and what decided."""

from __future__ import annotations

from typing import Any, Final

_NUMBER: Final = (float, None)

VERDICT: Final[dict[str, Any]] = {
    "metric": str,
    "verdict": str,
    "bound": str,
    "limit": float,
    "alpha": float,
    "interval": (None, [_NUMBER]),
    "estimate?": _NUMBER,
    "baseline?": _NUMBER,
    "candidate?": _NUMBER,
    "samples?": float,
    "reason?": str,
    "more_requests?": _NUMBER,
    "minutes?": _NUMBER,
    "alpha_pass?": _NUMBER,
    "e_value?": _NUMBER,
    "unit?": str,
    "adjusted_by?": (str, None),
}
"""`policies.rollout.verdicts.Verdict`"""

_ROLLOUT: Final[dict[str, Any]] = {
    "status": str,
    "stage": int,
    "weight": float,
    "baseline": str,
    "candidate": str,
    "entered": float,
    "since": float,
    "window": float,
    "patient_from": float,
    "bake_until": _NUMBER,
    "checked": _NUMBER,
    "reason": str,
    "competing?": _NUMBER,
    "acknowledged?": float,
    "accepted?": float,
    "by_hand?": bool,
    "shares?": [float],
    "carried?": {str: float},
    "waiting_since?": _NUMBER,
    "absent_since?": _NUMBER,
    "evidence?": [VERDICT],
}

STATE: Final[dict[str, Any]] = {
    "rollout": (None, _ROLLOUT),
    "ejections": {
        "fingerprint": str,
        "since": float,
        "ejected": {str: str},
        "judgement": (None, {"verdicts": [VERDICT], "sick": (str, bool)}),
    },
    "stop": {
        "fingerprint": str,
        "state": str,
        "winner": (str, None),
        "since": float,
        "by": str,
        "lead?": (None, {str: object}),
        "asks?": bool,
    },
    "acknowledged?": float,
}
"""`policies.rollout.route.RouteState`"""
