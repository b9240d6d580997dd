"""Decisions with their rewards and shadow responses as rows of an Arrow table, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as arrow

from gateway.record.events import Outcome, Reward, Shadowed, columns
from gateway.state.base import DecisionRecord

_UNIT_MASK: Final = (1 << 64) - 1
_TIME: Final = arrow.timestamp("us", tz="UTC")
_BOOLEANS: Final = frozenset({"sticky", "forced", "fallback"})
_INTEGERS: Final = frozenset({"revision", "epoch", "status", "request_bytes", "answer_bytes"})
_NUMBERS: Final = frozenset({"propensity", "gateway_ms", "backend_ms", "total_ms"})
_REWARD: Final = arrow.struct(
    [
        ("metric", arrow.string()),
        ("value", arrow.float64()),
        ("time", _TIME),
        ("served", arrow.string()),
        ("worst", arrow.float64()),
        ("tags", arrow.string()),
    ]
)
_SHADOW: Final = arrow.struct(
    [
        ("time", _TIME),
        ("shadow", arrow.string()),
        ("primary", arrow.string()),
        ("status", arrow.int64()),
        ("error", arrow.string()),
        ("latency_ms", arrow.float64()),
        ("primary_ms", arrow.float64()),
        ("agrees", arrow.bool_()),
        ("difference", arrow.float64()),
        ("detail", arrow.string()),
    ]
)


def _kind(name: str) -> Any:
    if name == "time":
        return _TIME
    if name in _BOOLEANS:
        return arrow.bool_()
    if name in _INTEGERS:
        return arrow.int64()
    return arrow.float64() if name in _NUMBERS else arrow.string()


_OUTCOME: Final = [(name, _kind(name)) for name in Outcome._fields]
SCHEMA: Final = arrow.schema(
    [*_OUTCOME, ("rewards", arrow.list_(_REWARD)), ("shadows", arrow.list_(_SHADOW))]
)
"""The fields of an outcome, with decision and unit in hexadecimal; rewards and shadow responses as lists."""


def flat_schema(rewards: Sequence[str]) -> Any:
    """The schema of an export: the fields of an outcome, a number for each of ``rewards``, and shadows as text."""
    return arrow.schema(
        [*_OUTCOME, *((name, arrow.float64()) for name in rewards), ("shadows", arrow.string())]
    )


def table_of(records: Sequence[DecisionRecord]) -> Any:
    """The table of at least one record, each with an outcome."""
    by_column = columns([record.outcome for record in records if record.outcome is not None])
    values = by_column._asdict() | {
        "decision": [decision.hex() for decision in by_column.decision],
        "time": list(map(microseconds, by_column.time)),
        "unit": [f"{unit & _UNIT_MASK:016x}" for unit in by_column.unit],
        "rewards": [[_reward(one) for one in record.rewards] for record in records],
        "shadows": [[_shadow(one) for one in record.shadows] for record in records],
    }
    return table(values, SCHEMA)


def table(values: Mapping[str, Sequence[Any]], schema: Any) -> Any:
    """The table of columns by name; times are in microseconds since the epoch."""
    arrays = [_array(values[field.name], field.type) for field in schema]
    return arrow.Table.from_arrays(arrays, schema=schema)


def completed(batch: Any) -> Any:
    """``batch`` as a table, with the columns that its writer, an earlier release, did not know."""
    table = arrow.Table.from_batches([batch])
    for name, default in Outcome._field_defaults.items():
        if name not in table.schema.names:
            table = table.append_column(name, arrow.array([default] * len(batch), _kind(name)))
    return table


def records_of(batch: Any) -> list[DecisionRecord]:
    """The records of a table in this schema. Raises ValueError for another one."""
    values = {name: _list(batch.column(name)) for name in Outcome._fields}
    values["decision"] = [bytes.fromhex(text) for text in values["decision"]]
    values["time"] = [time / 1e6 for time in values["time"]]
    values["unit"] = [int(text, 16) for text in values["unit"]]
    outcomes = map(Outcome._make, zip(*values.values(), strict=True))
    rewards, shadows = _list(batch.column("rewards")), _list(batch.column("shadows"))
    return [
        DecisionRecord(
            outcome,
            tuple(_rewarded(outcome, one) for one in given),
            tuple(_shadowed(outcome, one) for one in copies),
        )
        for outcome, given, copies in zip(outcomes, rewards, shadows, strict=True)
    ]


def _array(values: Sequence[Any], kind: Any) -> Any:
    if kind != arrow.string():
        return arrow.array(values, kind)
    try:
        return arrow.array(values, kind)
    except UnicodeEncodeError:  # bytes of a client that are not UTF-8
        return arrow.array([text.encode("utf-8", "backslashreplace").decode() for text in values], kind)


def _list(column: Any) -> list[Any]:
    if column.type == _TIME:
        column = column.cast(arrow.int64())
    found: list[Any] = column.to_pylist()
    return found


def microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _seconds(time: Any) -> float:
    """Of a timestamp inside a list, which arrives as a datetime."""
    return float(time.timestamp())


def _reward(reward: Reward) -> dict[str, Any]:
    return {
        "metric": reward.metric,
        "value": reward.value,
        "time": microseconds(reward.time),
        "served": reward.served,
        "worst": reward.worst,
        "tags": reward.tags,
    }


def _rewarded(outcome: Outcome, one: dict[str, Any]) -> Reward:
    return Reward(
        decision=outcome.decision,
        decided=outcome.time,
        route=outcome.route,
        assigned=outcome.assigned,
        epoch=outcome.epoch,
        propensity=outcome.propensity,
        unit=outcome.unit,
        forced=outcome.forced,
        **one | {"time": _seconds(one["time"])},
    )


def _shadow(shadow: Shadowed) -> dict[str, Any]:
    return shadow._asdict() | {"time": microseconds(shadow.time)}


def _shadowed(outcome: Outcome, one: dict[str, Any]) -> Shadowed:
    return Shadowed(outcome.decision, route=outcome.route, **one | {"time": _seconds(one["time"])})
