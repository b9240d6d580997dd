"""Where rewards wait while Redis is away: in the directory that the configuration names."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.children import free_port
from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess
from tests.support.servers import RedisServer, redis_server

CONFIG = """
listen: 127.0.0.1:@PORT@
store: redis://127.0.0.1:@REDIS@/0
metrics: {good: {type: boolean}}
backends:
  none: {url: "http://127.0.0.1:9"}
routes:
  fixed:
    match: {path: /fixed}
    variants: {v1: {backend: none}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {text: ok}}]
record: {spool: @SPOOL@}
"""


def config(server: RedisServer, spool: Path) -> str:
    return CONFIG.replace("@REDIS@", str(server.port)).replace("@SPOOL@", str(spool))


def report(gateway: GatewayProcess) -> httpx.Response:
    decision = httpx.post(f"{gateway.url}/fixed").headers["x-decision-id"]
    item = {"decision_id": decision, "metric": "good", "value": True}
    return httpx.post(f"{gateway.url}/-/feedback", json=item, timeout=30)


def rewards(gateway: GatewayProcess) -> int:
    found = httpx.get(f"{gateway.url}/-/routes/fixed").json()["variants"]["v1"]["rewards"]
    return int(found.get("good", {}).get("count", 0))


@pytest.mark.redis
def test_spooled_rewards_outlive_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    spool = tmp_path / "own" / "spool"
    with redis_server(tmp_path / "redis") as server:
        with GatewayProcess(tmp_path, config(server, spool)) as gateway:
            server.kill()
            assert report(gateway).json()["accepted"] == 1
            assert len(list(spool.glob("*.spool"))) == 1
            gateway.kill()
            server.start()
            gateway.start()
            wait_for(lambda: rewards(gateway) == 1)
            assert gateway.stop() == 0
        assert not list(spool.glob("*.spool"))


@pytest.mark.redis
def test_a_spool_that_can_not_be_written_is_warned_about_at_start(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "file").touch()
    with (
        redis_server(tmp_path / "redis") as server,
        GatewayProcess(tmp_path, config(server, tmp_path / "file" / "spool")) as gateway,
    ):
        assert "can't be written" in gateway.log
        assert "'record.spool'" in gateway.log
        server.kill()
        refused = report(gateway)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]


def _may_have_its_own_process_ids() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-pf", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not _may_have_its_own_process_ids(), reason="needs a namespace of process ids")
def test_workers_start_again_under_the_process_id_of_a_killed_gateway(tmp_path: Path) -> None:
    """As in a container, where it is always the same."""
    port = free_port()
    path = tmp_path / "turnout.yaml"
    text = CONFIG.replace("redis://127.0.0.1:@REDIS@/0", f"sqlite:///{tmp_path}/turnout.db")
    path.write_text(text.replace("record: {spool: @SPOOL@}\n", "").replace("@PORT@", str(port)))
    command = [sys.executable, "-m", "gateway.cli", "run", "--config", str(path), "--workers", "2"]
    for _ in range(2):
        process = subprocess.Popen(["unshare", "-pf", "--kill-child=KILL", *command], stderr=subprocess.PIPE)
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    assert httpx.post(f"http://127.0.0.1:{port}/fixed").status_code == 200
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > end:
                        pytest.fail(process.communicate()[1].decode())
                    time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        folders = list((tmp_path / "turnout.db.spool").glob("metrics-*"))
        assert len(folders) == 1, "the one before was swept"


@pytest.mark.redis
def test_an_outage_is_two_lines(tmp_path: Path) -> None:
    """And not one from each of four loops, every second."""
    (tmp_path / "redis").mkdir()
    with (
        redis_server(tmp_path / "redis") as server,
        GatewayProcess(tmp_path, config(server, tmp_path / "spool")) as gateway,
    ):
        server.kill()
        for _ in range(8):
            assert httpx.post(f"{gateway.url}/fixed").status_code == 200
            time.sleep(1)
        assert gateway.log.count("The store redis://") == 1, gateway.log
        assert "the store is unavailable" in gateway.log
        server.start()
        wait_for(lambda: "the store is available again after" in gateway.log)
        assert gateway.log.count("The store redis://") == 1, gateway.log
        assert gateway.stop() == 0
