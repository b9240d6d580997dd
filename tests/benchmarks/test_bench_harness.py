"""The whole harness, with real proxies, for a part of a second each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import hotpath
from benchmarks.__main__ import main

pytestmark = pytest.mark.slow


def measured(directory: Path, scenario: str, *words: str) -> dict[str, dict[str, dict[str, float]]]:
    """Runs the scenario; by section and peer the medians."""
    # A busy machine may have no response, or move no body of 16 MiB, in a second.
    for seconds in ("0.4", "1", "10"):
        given = [scenario, "--rounds", "1", "--seconds", seconds, "--out", str(directory), *words]
        assert main(given) == 0
        whole = json.loads((directory / f"{scenario}.json").read_text())
        assert whole["missing"] == {}
        # A round that failed, as one without a response in time, has no figures.
        if not any(found["discarded"] for each in whole["sections"] for found in each["series"].values()):
            break
    return {
        section["title"]: {name: found["median"] for name, found in section["series"].items()}
        for section in whole["sections"]
    }


def test_turnout_is_measured_beside_the_others(tmp_path: Path) -> None:
    peers = ["direct", "starlette", "turnout", "turnout-routing"]  # nginx and HAProxy: below
    found = measured(tmp_path, "closed", "--peers", ",".join(peers), "--concurrency", "8")
    table = found["Concurrency 8"]
    assert set(table) == set(peers)
    assert all(table[name]["rate"] > 0 for name in peers)
    assert table["direct"]["cpu_us"] == 0
    # A request through a proxy costs it at least the microsecond of its four socket calls.
    assert all(1 < table[name]["cpu_us"] < 100_000 for name in peers[1:])


def test_streams(tmp_path: Path) -> None:
    found = measured(tmp_path, "streaming", "--peers", "direct,nginx")
    paced = found["100 streams, an event every 20 ms each"]
    assert 0 < paced["direct"]["p50_us"] < 1e6
    assert paced["nginx"]["cpu_us"] > 0


def test_bodies(tmp_path: Path) -> None:
    found = measured(tmp_path, "bodies", "--peers", "direct,haproxy")
    assert set(found) == {"1 MiB up", "1 MiB down", "16 MiB up", "16 MiB down"}
    assert all(table[name]["megabytes"] > 0 for table in found.values() for name in ("direct", "haproxy"))


async def test_the_hot_path_without_sockets() -> None:
    times, counts = await hotpath.measure("turnout.yaml", rounds=1)
    assert 1 < times[0] < 100_000
    assert counts["call", "ClientProtocol.data_received"] == 1
    assert counts["call", "BackendConnection.data_received"] == 1
    assert sum(counts.values()) > 100
