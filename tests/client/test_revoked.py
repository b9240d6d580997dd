"""A key that is revoked in use: nothing is lost unseen, and the same client goes on with another key."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

import turnout
from tests.e2e.common import wait_for
from tests.support.predict import PREDICT
from tests.support.processes import GatewayProcess
from turnout import Client

OLD, NEW = f"tk_{'a' * 32}", f"tk_{'b' * 32}"
CONFIG = f"""
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {{watch: 100ms}}
metrics: {{correct: {{type: boolean}}}}
{PREDICT}auth: {{keys: [{{id: app, hash: "sha256:HASH", scopes: [infer, feedback]}}]}}
"""


def config(key: str) -> str:
    return CONFIG.replace("HASH", hashlib.sha256(key.encode()).hexdigest())


def test_rewards_of_a_revoked_key_can_be_sent_again_with_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with GatewayProcess(tmp_path, config(OLD)) as gateway, Client(gateway.url, key=OLD) as client:
        decisions = [client.post("/predict").decision for _ in range(30)]
        gateway.write(config(NEW))
        wait_for(lambda: client.post("/predict").status_code == 401)
        with pytest.raises(turnout.NoDecision, match="unauthenticated: The key is unknown"):
            _ = client.post("/predict").decision
        with caplog.at_level(logging.WARNING, "turnout.client"):
            for decision in decisions:
                decision.reward("correct", True)
            with pytest.raises(turnout.RewardsRejected, match="unauthenticated") as refused:
                client.flush()
        assert sum(record.args[0] for record in caplog.records) == 30  # type: ignore[index, misc]
        assert len(caplog.records) < 5, "a line for each batch"
        client.headers["x-api-key"] = NEW
        again = [rejection.item for rejection in refused.value.rejections]
        assert client.report(again) == {"accepted": 30, "duplicates": 0, "updated": 0}
        client.post("/predict").decision.reward("correct", True)
