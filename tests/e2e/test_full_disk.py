"""A real file system of a few MB that runs full under a real gateway."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DISK@/turnout.db
metrics: {good: {type: boolean}}
backends:
  none: {url: "http://127.0.0.1:9"}
routes:
  fixed:
    match: {path: /fixed}
    variants: {v1: {backend: none}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {text: ok}}]
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only who may mount has a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return ballast


def test_requests_go_on_rewards_are_refused_and_nothing_acknowledged_is_lost(
    tmp_path: Path, disk: Path
) -> None:
    with (
        GatewayProcess(tmp_path, CONFIG.replace("@DISK@", str(disk))) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as client,
    ):
        requests = acknowledged = refused = 0

        def round_trip() -> httpx.Response:
            nonlocal requests
            answer = client.post("/fixed")
            assert answer.status_code == 200
            requests += 1
            item = {"decision_id": answer.headers["x-decision-id"], "metric": "good", "value": True}
            return client.post("/-/feedback", json=item)

        for _ in range(50):
            assert round_trip().json()["accepted"] == 1
            acknowledged += 1
        ballast = fill(disk)
        while refused < 50:
            reported = round_trip()
            if reported.status_code == 200:
                assert reported.json()["accepted"] == 1
                acknowledged += 1
                fill(disk)
                continue
            assert (reported.status_code, reported.json()["error"]["code"]) == (503, "store_unavailable")
            assert "retry-after" in reported.headers
            assert "report them again" in reported.json()["error"]["message"]
            refused += 1
        wait_for(lambda: "no room left on its disk" in gateway.log, 30)  # a batch of the record says so
        assert gateway.log.count("can't be written either") < refused, "not a line for each refused reward"
        assert "Traceback" not in gateway.log
        os.truncate(ballast, 0)
        ballast.unlink()
        wait_for(lambda: round_trip().status_code == 200, 30)
        acknowledged += 1

        def variant() -> dict[str, object]:
            found: dict[str, object] = client.get("/-/routes/fixed").json()["variants"]["v1"]
            return found

        wait_for(lambda: variant()["assigned"] == requests, 30)
        rewards = variant()["rewards"]
        assert isinstance(rewards, dict)
        assert rewards["good"]["count"] == acknowledged
        assert gateway.stop() == 0
    with GatewayProcess(tmp_path, CONFIG.replace("@DISK@", str(disk))) as gateway:
        found = httpx.get(f"{gateway.url}/-/routes/fixed").json()["variants"]["v1"]
        assert (found["assigned"], found["rewards"]["good"]["count"]) == (requests, acknowledged)
