"""Gauges of states, from a real gateway with two workers."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import httpx
import pytest

from tests.e2e.common import wait_for
from tests.e2e.test_tls import Issuer
from tests.support.processes import GatewayProcess

CONFIG = """\
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 100ms, allocation: 100ms}
tls: {cert: "@DIR@/server.pem", key: "@DIR@/server.key"}
metrics: {good: {type: boolean}}
backends: {a: {urls: ["http://127.0.0.1:9", "http://127.0.0.1:10"]}}
routes:
  shop:
    match: {path: /shop}
    variants: {old: {backend: a}, new: {backend: a}}
    policy:
      type: canary
      baseline: old
      candidate: new
      stages: [{weight: 10%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 1%}]
  learn:
    match: {path: /learn}
    variants: {x: {backend: a}, y: {backend: a}}
    policy: {type: bandit, metric: good, baseline: x, guardrails: [{metric: error_rate, max_increase: 50%}]}
    fallback: [{respond: {status: 200, json: {}}}]
"""


@pytest.mark.slow
def test_states_are_shown_and_what_is_gone_disappears(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    issuer.issue("server")
    trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with GatewayProcess(tmp_path, CONFIG, "--workers", "2", ready=False) as gateway:
        url = gateway.url.replace("http", "https")

        def text_of_metrics() -> str:
            try:
                return httpx.get(f"{url}/-/metrics", verify=trust).text
            except httpx.HTTPError:
                return ""  # not ready yet

        def value(series: str) -> float | None:
            found = re.search(rf"^{re.escape(series)} (\S+)$", text_of_metrics(), re.MULTILINE)
            return None if found is None else float(found[1])

        running = 'turnout_rollout_state{route="shop",state="running"}'
        wait_for(lambda: value(running) == 1)
        verdict = 'turnout_guardrail_verdict{metric="error_rate",route="shop",verdict="inconclusive"}'
        expiry = f'turnout_certificate_expiry_timestamp_seconds{{path="{tmp_path}/server.pem"}}'
        at_least = {
            'turnout_rollout_stage{route="shop"}': 1.0,
            verdict: 1.0,
            "turnout_store_ready": 1.0,
            "turnout_spool_bytes": 0.0,
            'turnout_allocation_timestamp_seconds{route="shop"}': 1e9,
            expiry: 1e9,
        }
        for series, least in at_least.items():  # either worker may respond, and each looks every five seconds
            wait_for(lambda series=series, least=least: (value(series) or 0.0) >= least)

        for _ in range(20):
            served = httpx.get(f"{url}/learn", verify=trust)
            reward = {"decision_id": served.headers["x-decision-id"], "metric": "good", "value": True}
            assert httpx.post(f"{url}/-/feedback", json=reward, verify=trust).json()["accepted"] == 1
        wait_for(lambda: value('turnout_probability_best{route="learn",variant="x"}') is not None)
        of_bandit = r'^turnout_guardrail_verdict\{metric="error_rate",route="learn",verdict="\w+"\} 1'
        wait_for(lambda: re.search(of_bandit, text_of_metrics(), re.MULTILINE) is not None)

        second = 'turnout_backend_healthy{address="http://127.0.0.1:10",backend="a"}'
        wait_for(lambda: value(second) is not None)
        paused = httpx.post(
            f"{url}/-/routes/shop/rollout",
            json={"action": "pause"},
            headers={"host": "localhost"},
            verify=trust,
        )
        assert paused.status_code == 200, paused.text
        gateway.write(CONFIG.replace(', "http://127.0.0.1:10"', ""))
        wait_for(lambda: value(second) is None)
        wait_for(lambda: value(running) is None)
        wait_for(lambda: value(running.replace("running", "paused")) == 1)
