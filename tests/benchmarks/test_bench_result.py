"""What is printed is what was measured: medians, ranges, ratios, and what was thrown away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench import Options
from benchmarks.result import Column, Result, Section, into_document
from benchmarks.rounds import Sample, Series, interleave

COLUMNS = (Column("requests/s", "rate", 1, 0, spread=True), Column("CPU µs/request", "cpu_us", 1, 1))


def series(*cpu: float, errors: float = 0) -> Series:
    made = Series()
    for value in cpu:
        made.add({"rate": 1e6 / value, "cpu_us": value, "errors": errors})
    return made


def test_rounds_begin_with_another_peer_each_time_and_survive_a_failure() -> None:
    seen: list[str] = []

    def measure(name: str) -> Sample:
        seen.append(name)
        if len(seen) == 2:
            raise RuntimeError("wrk ended")
        return {"rate": 1.0, "errors": 0.0}

    found = interleave(["a", "b", "c"], 2, measure)
    assert seen == ["a", "b", "c", "b", "c", "a"]
    assert [len(found[name].samples) for name in "abc"] == [2, 1, 2]
    assert found["b"].faults == ["wrk ended"]


def test_rounds_with_errors_do_not_count() -> None:
    made = series(10.0, 30.0)
    made.add({"rate": 1.0, "cpu_us": 99.0, "errors": 3})
    assert made.median("cpu_us") == 20.0
    assert made.spread("cpu_us") == (10.0, 30.0)
    assert (made.discarded, made.faults) == (1, ["3 errors"])


def test_a_table_has_medians_ranges_ratios_and_what_was_discarded() -> None:
    table = Section(
        "Concurrency 1",
        COLUMNS,
        {"nginx": series(10.0, 20.0, 12.0), "envoy": series(40.0), "turnout": series(5.0, errors=1)},
        ratio="cpu_us",
    ).markdown()
    assert "|  | requests/s | CPU µs/request | to Envoy | to nginx |" in table
    assert "| nginx | 83 333 (50 000–100 000) | 12.0 | 0.30 | 1.00 |" in table
    assert "| Envoy | 25 000 | 40.0 | 1.00 | 3.33 |" in table
    assert "| **Turnout**, all on | – | – | – | – |" in table
    assert "**Turnout**, all on: 1 of 1 rounds discarded (1 errors)." in table


def test_a_result_keeps_every_sample_and_no_name_of_a_host(tmp_path: Path) -> None:
    import platform

    section = Section("Concurrency 1", COLUMNS, {"nginx": series(10.0, 20.0)})
    result = Result("closed", Options(peers=("nginx",)), [section], {"envoy": "not installed\nat all"})
    text = result.write(tmp_path).read_text()
    whole = json.loads(text)
    assert [sample["cpu_us"] for sample in whole["sections"][0]["series"]["nginx"]["samples"]] == [10.0, 20.0]
    assert whole["missing"] == {"envoy": "not installed"}
    assert whole["machine"]["cores"] >= 1
    assert platform.node() not in text
    assert "Not measured: envoy (not installed)." in (tmp_path / "closed.md").read_text()


@pytest.mark.parametrize("old", ["", "an older table\n"])
def test_a_table_goes_between_its_marks(tmp_path: Path, old: str) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n<!-- closed -->\n{old}<!-- /closed -->\nafter\n")
    assert into_document(document, "closed", "new\n")
    assert document.read_text() == "before\n<!-- closed -->\nnew\n<!-- /closed -->\nafter\n"
    assert not into_document(document, "idle", "new\n")
