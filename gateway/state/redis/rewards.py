"""Rewards, and what belongs to one decision."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from gateway.record.context import covariates_of, has_row, segments_of, unpack
from gateway.record.events import Outcome, Reward, Shadowed
from gateway.state.base import DecisionRecord, RewardResult
from gateway.state.paging import MAX_PAGE_SPAN_MS, milliseconds
from gateway.state.redis.codec import linear_field, pack_reward, unpack_reward, unpack_shadowed
from gateway.state.redis.link import Link
from gateway.state.redis.record import hour_of
from gateway.state.redis.script import Script
from gateway.state.tally import counted_value, linear_keys, start_of
from gateway.state.units import SEGMENT, weight_steps

T = TypeVar("T")
log = logging.getLogger("turnout.store")

_REWARD: Final = Script.load("reward")
_REWARDS_PER_SCRIPT: Final = 500
"""Rewards in one script, so that it never holds others up for more than a few milliseconds. One counts again in each
segment that it is in, and with each covariate."""
_REPLACES_DAMAGED: Final = ord("r")
_RESULTS: Final[dict[int, RewardResult]] = {
    ord("a"): "accepted",
    ord("d"): "duplicate",
    ord("u"): "updated",
    _REPLACES_DAMAGED: "updated",
}


async def upsert(
    link: Link, route: str, rewards: Sequence[Reward], *, replay: bool
) -> tuple[list[RewardResult], list[Reward]]:
    """Of one route, in order; and those that replaced damaged rows."""
    results: list[RewardResult] = []
    replacing: list[Reward] = []
    parts = (len(segments_of(r.context)) + len(covariates_of(r.context)) for r in rewards)
    size = _REWARDS_PER_SCRIPT // (1 + max(parts, default=0))
    for at in range(0, len(rewards), size):
        arguments: list[Any] = ["1" if replay else "0"]
        given = rewards[at : at + size]
        for reward in given:
            arguments += _arguments(reward)
        letters = await link.run(_REWARD, link.of_route(route), *arguments, wait=True)
        results += [_RESULTS[letter] for letter in letters]
        replacing += [r for r, letter in zip(given, letters, strict=True) if letter == _REPLACES_DAMAGED]
    return results, replacing


def _arguments(reward: Reward) -> tuple[Any, ...]:
    metric = reward.metric.encode()
    return (
        hour_of(reward.decision),
        reward.decision + metric,
        reward.decision,
        metric,
        pack_reward(reward, counted_value(reward)),
        start_of(reward.decided),
        *_row(reward),
        reward.epoch,
        reward.assigned.encode() + b"\0" + metric,
        f"{reward.unit:016x}",
        int(reward.assigned != reward.served),
        weight_steps(reward),
        "".join(SEGMENT + segment for segment in segments_of(reward.context)),
        "".join(f"{name}:{steps};" for name, steps in covariates_of(reward.context)),
    )


def _row(reward: Reward) -> tuple[Any, ...]:
    """The packed features, the start of their bucket and the name of their cell."""
    if not has_row(reward.context):
        return "", "", ""
    packed = bytes.fromhex(reward.context)
    key, _ = linear_keys(reward, unpack(packed).fingerprint)
    return packed, key.start, linear_field(key.variant, key.metric, key.fingerprint)


async def rewards_of(link: Link, route: str, decision: bytes) -> tuple[Reward, ...]:
    """By metric; a retracted one has no value."""
    return _readable(unpack_reward, (await _rows_of(link, route, [decision], "rewards"))[0])


async def shadows_of(link: Link, route: str, decision: bytes) -> tuple[Shadowed, ...]:
    """By shadow."""
    return _readable(unpack_shadowed, (await _rows_of(link, route, [decision], "shadowed"))[0])


def _readable(unpack: Callable[[bytes], T], rows: Iterable[bytes]) -> tuple[T, ...]:
    """The rows without damaged ones, which the log tells of."""
    found = []
    for row in rows:
        try:
            found.append(unpack(row))
        except (ValueError, LookupError, TypeError, struct.error) as error:
            log.error("a damaged row of the record is left out: %s: %s", type(error).__name__, error)
    return tuple(found)


def about(link: Link, route: str, decision: bytes) -> list[tuple[Any, ...]]:
    """Commands of which at least one finds something where the route has anything of a decision."""
    base, at, hour = link.of_route(route), milliseconds(decision), hour_of(decision)
    return [
        ("ZCOUNT", f"{base}:last", at, at + MAX_PAGE_SPAN_MS),
        ("HEXISTS", f"{base}:rewards:{hour}", decision),
        ("HEXISTS", f"{base}:shadowed:{hour}", decision),
    ]


async def with_what_belongs(link: Link, outcomes: Sequence[Outcome]) -> list[DecisionRecord]:
    """The outcomes with their rewards and shadows, in two round trips a route."""
    found: dict[bytes, DecisionRecord] = {}
    by_route: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_route.setdefault(outcome.route, []).append(outcome)
    for route, mine in by_route.items():
        decisions = [outcome.decision for outcome in mine]
        rewards = await _rows_of(link, route, decisions, "rewards")
        shadows = await _rows_of(link, route, decisions, "shadowed")
        for outcome, reward_rows, shadow_rows in zip(mine, rewards, shadows, strict=True):
            found[outcome.decision] = DecisionRecord(
                outcome, _readable(unpack_reward, reward_rows), _readable(unpack_shadowed, shadow_rows)
            )
    return [found[outcome.decision] for outcome in outcomes]


async def _rows_of(link: Link, route: str, decisions: Sequence[bytes], kind: str) -> list[list[bytes]]:
    """For each decision the rows of one kind, in the order of their names."""
    base = link.of_route(route)
    keys = [f"{base}:{kind}:{hour_of(decision)}" for decision in decisions]
    names = await link.commands([("HGET", key, d) for key, d in zip(keys, decisions, strict=True)])
    wanted = [
        ("HMGET", key, *(decision + name for name in sorted(packed.split(b"\0"))))
        for key, decision, packed in zip(keys, decisions, names, strict=True)
        if packed is not None
    ]
    rows = iter(await link.commands(wanted))
    return [[] if packed is None else next(rows) for packed in names]


MAX_SCANNED: Final = 100_000
"""Rows of shadows that are looked at, the newest hours first."""


async def shadow_responses(
    link: Link, route: str, shadow: str, *, since: float, limit: int = 1000, disagreeing: bool = False
) -> list[Shadowed]:
    """Newest first; at most `MAX_SCANNED` rows are looked at."""
    base, found, scanned = link.of_route(route), list[Shadowed](), 0
    oldest = int(since // 3600)
    hours = await link.command("ZREVRANGEBYSCORE", f"{base}:shadowed_hours", "+inf", oldest)
    for hour in hours:
        of_hour, cursor = list[Shadowed](), b"0"
        while True:
            cursor, rows = await link.command(
                "HSCAN", f"{base}:shadowed:{hour.decode()}", cursor, "COUNT", 500
            )
            pairs = rows.items() if isinstance(rows, dict) else zip(rows[::2], rows[1::2], strict=True)
            # A decision alone names its shadows; with a shadow behind it, it is a row.
            mine = _readable(unpack_shadowed, (row for field, row in pairs if field[16:] == shadow.encode()))
            of_hour += [one for one in mine if one.agrees is False or not disagreeing]
            scanned += len(rows)
            if int(cursor) == 0 or scanned > MAX_SCANNED:
                break
        found += sorted(of_hour, key=lambda one: one.decision, reverse=True)
        if len(found) >= limit or scanned > MAX_SCANNED:
            break
    first = max(0, int(since * 1000)).to_bytes(6, "big")
    return [one for one in found if one.decision >= first][:limit]
