"""``turnout plan``, with and without a record."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.record.events import UNSEEN
from gateway.state.sqlite import SqliteStore
from tests.support.made import outcome, reward

CONFIG = """
store: sqlite:///STORE
metrics: {ok: {type: boolean}, spent: {type: real}}
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
  r:
    match: {path: /r}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 10%, for: 1h}]
      guardrails:
        - {metric: error_rate, max_increase: 2%}
        - {metric: ok, max_relative_decrease: 10%}
        - {metric: spent, max_decrease: 1}
        - {metric: latency_p99, max_ratio: 1.2}
"""


def planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str, config: str = CONFIG
) -> dict[str, object]:
    file = tmp_path / "turnout.yaml"
    file.write_text(config.replace("STORE", str(tmp_path / "store.db")))
    assert main(["plan", "--config", str(file), *more, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {row["metric"]: row for row in found["rows"]} | {
        name: found[name] for name in ("measured", "unit", "requests_per_day")
    }


@pytest.mark.long
def test_before_anything_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(tmp_path, capsys)
    assert found["measured"] is False
    errors = found["error_rate"]
    assert isinstance(errors, dict)
    assert 0 < errors["fail"]["requests"] <= errors["fail"]["most"]
    assert errors["pass"]["requests"] > 0
    assert found["ok"]["fail"] is None  # type: ignore[index]


@pytest.mark.long
def test_fast_routes_are_timed_in_seconds_and_other_policies_have_nothing_to_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It read "0.019 min"."""
    file = tmp_path / "turnout.yaml"
    only_errors, _, _ = CONFIG.partition("        - {metric: ok")
    file.write_text(only_errors.replace("STORE", str(tmp_path / "store.db")))
    assert main(["plan", "--config", str(file), "--rate", "1000"]) == 0
    assert re.search(r" \([\d.]+ s\)$", capsys.readouterr().out, re.MULTILINE)
    single = re.sub(r"policy:\n.*", "policy: {type: single, variant: v1}", CONFIG, flags=re.DOTALL)
    file.write_text(single.replace("STORE", str(tmp_path / "store.db")))
    assert main(["plan", "--config", str(file)]) == 1
    assert "--config with a file that has the canary to come" in capsys.readouterr().err


@pytest.mark.slow
def test_with_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def record() -> None:
        store = SqliteStore(tmp_path / "store.db")
        await store.open()
        now = time.time() - 3_600
        made = [
            outcome(route="r", time=now + k / 100, assigned="v1", served="v1", sticky=False)
            for k in range(300)
        ]
        await store.append(made)
        await store.reward([reward(float(k % 2), of=o, metric="ok") for k, o in enumerate(made)])
        await store.reward([reward(float(k % 7), of=o, metric="spent") for k, o in enumerate(made)])
        await store.close()

    asyncio.run(record())
    found = planned(tmp_path, capsys)
    assert found["measured"] is True
    for metric in ("ok", "spent"):
        row = found[metric]
        assert isinstance(row, dict)
        assert 100 < row["fail"]["requests"] < 1e6
        assert 100 < row["pass"]["requests"] < 1e6
    assert found["latency_p99"]["fail"] is None  # type: ignore[index]
    assert 300 * 12 <= float(str(found["requests_per_day"])) <= 300 * 24, "the route is an hour or two old"
    assert main(["plan", "--config", str(tmp_path / "turnout.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "an equal one passes" in printed
    assert re.search(r"errors \(the last [\d.]+ (min|h)\)", printed)
    by_unit = planned(
        tmp_path, capsys, config=CONFIG.replace("    match:", "    unit: {header: x-user}\n    match:")
    )
    assert (found["unit"], by_unit["unit"]) == ("requests", "units")
    errors = by_unit["error_rate"]
    assert isinstance(errors, dict)
    assert errors["fail"]["days"] is None
    for verdict in ("fail", "pass"):
        assert 100 < errors[verdict]["requests"] < 1e6, (
            "no error was seen yet, but a worse candidate has some"
        )
    assert main(["plan", "--config", str(tmp_path / "turnout.yaml")]) == 0
    assert "Units of the route, of which each counts once" in capsys.readouterr().out


@pytest.mark.long
def test_the_error_rate_is_that_of_responses_that_were_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a decision without a proxied request none is; and values of another type of metric say nothing."""

    async def record() -> None:
        store = SqliteStore(tmp_path / "store.db")
        await store.open()
        about: dict[str, Any] = {"route": "r", "time": time.time() - 60, "assigned": "v1", "sticky": False}
        made = [outcome(**about, served="v1", error="timeout" if k < 5 else "") for k in range(50)]
        await store.append([*made, *(outcome(**about, served="", status=UNSEEN) for _ in range(150))])
        await store.reward([reward(90.0, of=one, metric="ok") for one in made])
        await store.close()

    asyncio.run(record())
    found = planned(tmp_path, capsys)
    assert found["ok"]["fail"] is None  # type: ignore[index]
    assert main(["plan", "--config", str(tmp_path / "turnout.yaml")]) == 0
    assert "10.00% errors" in capsys.readouterr().out


@pytest.mark.long
def test_a_clock_that_was_set_back_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def record() -> None:
        store = SqliteStore(tmp_path / "store.db")
        await store.open()
        await store.append([outcome(route="r", time=time.time() + 9 * 3600, assigned="v1", sticky=False)])
        await store.close()

    asyncio.run(record())
    assert planned(tmp_path, capsys)["requests_per_day"] == 24
