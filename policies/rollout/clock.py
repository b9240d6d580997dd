"""The clock of a rollout's stage, which stands still while the stage is not in effect. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from policies.rollout.state import State
from policies.rollout.table import Status

MAX_UNSEEN_S: Final = 120.0
"""Seconds between the looks of two processes up to which a stage goes on, as over a restart. The last look that is
stored may be a minute old."""


def not_ahead(state: State, now: float) -> State:
    """The state without times to come: the clock was set back, and evidence since then would be none for that long."""
    bake, competing = state.bake_until, state.competing
    return replace(
        state,
        entered=min(state.entered, now),
        since=min(state.since, now),
        window=min(state.window, now),
        patient_from=min(state.patient_from, now),
        checked=min(state.checked, now),
        acknowledged=min(state.acknowledged, now),
        # Or a share would be held back for as long.
        bake_until=None if bake is None else bake - max(0.0, state.since - now),
        competing=None if competing is None else min(competing, now),
        # Or the stage would be taken to have lasted longer by the step of the clock.
        waiting_since=None if state.waiting_since is None else min(state.waiting_since, now),
        absent_since=None if state.absent_since is None else min(state.absent_since, now),
    )


def absent(state: State, now: float, carried: Mapping[str, float] | None = None) -> State:
    """The state once the document has the rollout no longer: its clock stands still until the next `step`.

    ``carried``: as in `Tick`.
    """
    if state.absent_since is not None or not state.watched:
        return state
    carried = state.carried if carried is None else dict(carried)
    return replace(timed(state, "", now), absent_since=now, carried=carried)


def returned(state: State, now: float) -> State:
    """The state once a document has the rollout again.

    The evidence begins again: the candidate had no share meanwhile, and rates of another time are not comparable. Bets
    are, and go on.
    """
    if state.absent_since is None:
        return state
    return replace(moved_on(state, state.absent_since, now), absent_since=None, window=now, checked=now)


def looked(state: State, first: bool, now: float) -> State:
    """The state after a look. If the ``first`` of a process comes late, the time without looks does not count:
    no gateway ran, and there is no evidence of it."""
    since = max(state.checked, state.since)
    if first and state.watched and state.waiting_since is None and now - since > MAX_UNSEEN_S:
        state = moved_on(state, since, now)
    return replace(state, checked=now)


def timed(state: State, waits: str, now: float) -> State:
    """The state with its clock stopped while the weight is not in effect everywhere; then it goes on."""
    since = state.waiting_since
    if waits or since is None:
        return replace(state, waiting_since=(now if since is None else since) if waits else None)
    return replace(moved_on(state, since, now), waiting_since=None)


def moved_on(state: State, since: float, now: float) -> State:
    """The state whose clock has stood still from ``since`` to ``now``; by the length of a pause, `_resume` moves it."""
    until = max(since, state.since) if state.status in (Status.PAUSED, Status.HALTED) else now
    still, bake = until - since, state.bake_until
    return replace(
        state,
        entered=min(now, state.entered + still),
        patient_from=min(now, state.patient_from + still),
        bake_until=None if bake is None else bake + still,
    )
