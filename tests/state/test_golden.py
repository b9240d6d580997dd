"""The bytes that Redis keeps, written down once (golden.json): Python and Lua read and write the same.

A change of a format shows here as a difference from bytes that older versions have stored. ``sum`` is ``old`` plus
``delta``, ``back`` is what is left of it without ``delta``: the same figure as ``old``, maybe in other parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis

from gateway.record.context import unpack
from gateway.state.base import Counts
from gateway.state.exact import ExactSums
from gateway.state.linear import ExactLinear
from gateway.state.redis.codec import pack_counts, unpack_counts, unpack_reward
from gateway.state.redis.script import expand
from gateway.state.tally import add_counts
from gateway.state.units import UNIT_MOVES_S, UNIT_REST_S
from tests.support.servers import redis_server

GOLDEN: Final = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def cases(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["about"]) for case in GOLDEN[kind]]


def stored(cell: dict[str, Any]) -> bytes:
    return bytes.fromhex(cell["bytes"])


# Python -------------------------------------------------------------------------------------------
def counts_of(cell: dict[str, Any]) -> Counts:
    fields = {name: value for name, value in cell.items() if name != "bytes"}
    for name in ("latency", "gateway"):
        fields[name] = {int(bucket): number for bucket, number in fields[name].items()}
    return Counts(**fields)


def sums_of(cell: dict[str, Any]) -> ExactSums:
    sums = ExactSums()
    for value in cell["values"]:
        sums.report(value)
    return sums


def linear_of(cell: dict[str, Any]) -> ExactLinear:
    sums = ExactLinear(cell["width"])
    for row in cell["rows"]:
        sums.report(unpack(bytes.fromhex(row["context"])), row["value"])
    return sums


@pytest.mark.parametrize("case", cases("counts"))
def test_python_packs_counts(case: Any) -> None:
    for cell in (case["old"], case["delta"]):
        assert pack_counts(counts_of(cell)) == stored(cell)
        assert unpack_counts([stored(cell)]) == counts_of(cell)
    total = counts_of(case["old"])
    add_counts(total, counts_of(case["delta"]))
    assert pack_counts(total).hex() == case["sum"]
    assert unpack_counts([stored(case["old"]), stored(case["delta"])]) == total


@pytest.mark.parametrize("case", cases("sums"))
def test_python_reads_sums(case: Any) -> None:
    for cell in (case["old"], case["delta"]):
        assert ExactSums.unpack(stored(cell)) == sums_of(cell)
    total = sums_of(case["old"])
    total.merge(sums_of(case["delta"]))
    assert ExactSums.unpack(bytes.fromhex(case["sum"])) == total
    total.merge(sums_of(case["delta"]), -1)
    assert ExactSums.unpack(bytes.fromhex(case["back"])) == total
    assert total.rounded == sums_of(case["old"]).rounded


@pytest.mark.parametrize("case", cases("linear"))
def test_python_packs_linear_sums(case: Any) -> None:
    for cell in (case["old"], case["delta"]):
        assert linear_of(cell).pack() == stored(cell)
        assert ExactLinear.unpack(stored(cell)) == linear_of(cell)
    total = linear_of(case["old"])
    total.merge(linear_of(case["delta"]))
    assert total.pack().hex() == case["sum"]
    total.merge(linear_of(case["delta"]), -1)
    assert total.pack().hex() == case["back"]


@pytest.mark.parametrize("case", GOLDEN["rewards"])
def test_python_reads_rewards(case: Any) -> None:
    reward = unpack_reward(stored(case))
    assert (reward.value, reward.period, reward.route) == (case["value"], case["period"], "ranker")


# Lua ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as server,
        Redis(port=server.port, protocol=3) as client,
    ):
        yield client


def run(redis: Redis, source: str, *arguments: Any) -> Any:
    redis.flushall()
    return redis.eval(expand(source), 1, "p", *arguments)


ADD: Final = """
redis.call('HSET', 'k', 'f', ARGV[1])
local found = {}
for place, sign in ipairs({1, -1}) do
  add_NAME('k', 'f', ARGV[2], sign)
  found[place] = redis.call('HGET', 'k', 'f')
end
return found
"""


@pytest.mark.redis
@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}: {case['about']}")
        for name in ("counts", "sums", "linear")
        for case in GOLDEN[name]
    ],
)
def test_lua_adds_a_cell_and_takes_it_away(redis: Redis, name: str, case: Any) -> None:
    source = f"-- include: {name}\n" + ADD.replace("NAME", name)
    added, taken = run(redis, source, stored(case["old"]), stored(case["delta"]))
    assert [added.hex(), taken.hex()] == [case["sum"], case["back"]]


@pytest.mark.redis
@pytest.mark.parametrize("case", cases("counts"))
def test_lua_removes_a_cell_without_requests(redis: Redis, case: Any) -> None:
    source = """-- include: counts
redis.call('HSET', 'k', 'f', ARGV[1])
add_counts('k', 'f', ARGV[1], -1)
return redis.call('HEXISTS', 'k', 'f')"""
    assert run(redis, source, stored(case["old"])) == 0


@pytest.mark.redis
@pytest.mark.parametrize("case", cases("sums"))
def test_lua_packs_sums(redis: Redis, case: Any) -> None:
    source = """-- include: sums
local sums = read_sums(nil)
for _, value in ipairs(ARGV) do add_value(sums, tonumber(value), 1) end
return pack_sums(sums)"""
    for cell in (case["old"], case["delta"]):
        assert run(redis, source, *map(repr, cell["values"])).hex() == cell["bytes"]


@pytest.mark.redis
@pytest.mark.parametrize("case", cases("linear"))
def test_lua_packs_linear_sums(redis: Redis, case: Any) -> None:
    source = """-- include: linear
local sums = read_linear(nil, string.byte(ARGV[1], 9))
for k = 1, #ARGV, 2 do add_row(sums, ARGV[k], tonumber(ARGV[k + 1]), 1) end
return pack_linear(sums)"""
    for cell in (case["old"], case["delta"]):
        rows = [part for row in cell["rows"] for part in (bytes.fromhex(row["context"]), repr(row["value"]))]
        assert run(redis, source, *rows).hex() == cell["bytes"]


@pytest.mark.redis
@pytest.mark.parametrize("case", GOLDEN["rewards"])
def test_lua_reads_rewards(redis: Redis, case: Any) -> None:
    source = """-- include: rewards
local reward = read_reward(ARGV[1])
return cjson.encode({value = reward.value, counted = reward.counted, period = reward.period, time = reward.time,
  decided = reward.decided})"""
    found = json.loads(run(redis, source, stored(case)))
    assert (found.get("value"), found.get("counted"), found["period"]) == (
        case["value"],
        case["counted"],
        case["period"],
    )
    assert found["time"] == 1700000100.5
    assert found.get("decided") == (1700000000.25 if case["period"] else None)


@pytest.mark.redis
def test_lua_keeps_units_for_as_long_as_python(redis: Redis) -> None:
    assert run(redis, "-- include: units\nreturn {UNIT_REST_S, UNIT_MOVES_S}") == [UNIT_REST_S, UNIT_MOVES_S]


def test_a_shared_part_is_included_once() -> None:
    assert expand("-- include: sums\n-- include: linear\n").count("local function grow(") == 1
