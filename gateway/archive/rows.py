"""Decisions with their rewards and shadow responses as rows of an Arrow table, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any, Final, TypeVar

import pyarrow as arrow
from pyarrow import compute

from gateway.record.events import Outcome, Reward, Shadowed, columns
from gateway.state.base import DecisionRecord

T = TypeVar("T")
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
    outcomes = list(map(Outcome._make, zip(*values.values(), strict=True)))
    rewards = _nested(batch.column("rewards"), _REWARD, outcomes, _rewarded)
    shadows = _nested(batch.column("shadows"), _SHADOW, outcomes, _shadowed)
    return list(map(DecisionRecord, outcomes, rewards, shadows))


def _nested(
    column: Any, kind: Any, outcomes: Sequence[Outcome], make: Callable[[Outcome, Sequence[Any]], T]
) -> list[tuple[T, ...]]:
    """What a column of lists holds for each outcome; the fields of all structs are read by column."""
    lists = column.combine_chunks()
    lengths = compute.list_value_length(lists).to_pylist()
    structs = compute.list_flatten(lists)
    fields = [_list(compute.struct_field(structs, field.name)) for field in kind]
    place = kind.get_field_index("time")
    fields[place] = [time / 1e6 for time in fields[place]]
    owners = chain.from_iterable(map(repeat, outcomes, lengths))
    made = map(make, owners, zip(*fields, strict=True))
    return [tuple(islice(made, length)) if length else () for length in lengths]


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


def _reward(reward: Reward) -> dict[str, Any]:
    return {
        "metric": reward.metric,
        "value": reward.value,
        "time": microseconds(reward.time),
        "served": reward.served,
        "worst": reward.worst,
        "tags": reward.tags,
    }


def _rewarded(of: Outcome, one: Sequence[Any]) -> Reward:
    metric, value, time, served, worst, tags = one
    decided = of.time, of.route, of.assigned, served, of.epoch, of.propensity, of.unit, of.forced
    return Reward(of.decision, metric, value, time, *decided, worst, tags)


def _shadow(shadow: Shadowed) -> dict[str, Any]:
    return shadow._asdict() | {"time": microseconds(shadow.time)}


def _shadowed(of: Outcome, one: Sequence[Any]) -> Shadowed:
    time, *rest = one
    return Shadowed(of.decision, time, of.route, *rest)
