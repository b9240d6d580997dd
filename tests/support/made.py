"""Outcomes, rewards and the like for tests: sensible defaults, any field overridden."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import uuid4

from gateway.record.events import Outcome, Reward, Shadowed
from gateway.state.base import Published

T0 = 1_700_000_000.0
"""A multiple of ten seconds, as buckets are."""
_numbers = count(1)


def decision(time: float = T0, number: int | None = None) -> bytes:
    """A fresh decision made at ``time``."""
    return int(time * 1000).to_bytes(6, "big") + b"proc1" + (number or next(_numbers)).to_bytes(5, "big")


def drawn_decision(time: float = T0) -> bytes:
    """A decision made at ``time`` by another proxy, which draws a UUID."""
    return int(time * 1000).to_bytes(6, "big") + uuid4().bytes[:10]


def outcome(time: float = T0, **fields: Any) -> Outcome:
    base: dict[str, Any] = {
        "decision": decision(time), "time": time, "route": "digits", "policy": "bandit", "revision": 3,
        "epoch": 1, "unit": 0xFEDC_BA98_7654_3210, "sticky": True, "assigned": "v1", "served": "v1",
        "propensity": 0.5, "forced": False, "status": 200, "error": "", "fallback": False, "attempts": "",
        "gateway_ms": 0.25, "backend_ms": 3.5, "total_ms": 3.75, "request_bytes": 512, "answer_bytes": 128,
        "request_id": "req-ä-1", "principal": "app", "features": "",
    }  # fmt: skip
    return Outcome(**base | fields)


def reward(
    value: float | None = 1.0, *, of: Outcome | None = None, metric: str = "correct", **fields: Any
) -> Reward:
    """A report for ``of`` (a fresh outcome when left out), a second after it."""
    about = of or outcome()
    base: dict[str, Any] = {
        "decision": about.decision, "metric": metric, "value": value, "time": about.time + 1,
        "decided": about.time, "route": about.route, "assigned": about.assigned, "served": about.served,
        "epoch": about.epoch, "propensity": about.propensity, "unit": about.unit, "forced": about.forced,
    }  # fmt: skip
    return Reward(**base | fields)


def shadowed(*, of: Outcome | None = None, shadow: str = "v3", **fields: Any) -> Shadowed:
    about = of or outcome()
    base: dict[str, Any] = {
        "decision": about.decision, "time": about.time, "route": about.route, "shadow": shadow,
        "primary": about.served, "status": 200, "error": "", "latency_ms": 4.5, "primary_ms": 3.5,
        "agrees": True, "difference": None, "detail": "",
    }  # fmt: skip
    return Shadowed(**base | fields)


def published(epoch: int = 1, *, route: str = "digits", **fields: Any) -> Published:
    base: dict[str, Any] = {
        "route": route, "epoch": epoch, "probabilities": {"v1": 0.25, "v2": 0.75}, "bounds": (0.25, 1.0),
        "owners": (0, 1), "reason": "posterior", "time": T0 + epoch, "evidence": '{"alpha":[1,2]}',
    }  # fmt: skip
    return Published(**base | fields)
