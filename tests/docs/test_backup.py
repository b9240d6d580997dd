"""docs/backup.md: its commands, over a gateway with one reward before the backup and one after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docs.reader import GATEWAY, Reader, blocks, wait_for
from tests.support.predict import PREDICT

pytestmark = pytest.mark.slow

PAGE = "docs/backup.md"
CONFIGURATION = f"""
listen: 127.0.0.1:8080
store: sqlite:///turnout.db
metrics: {{correct: {{type: boolean}}}}
{PREDICT}"""


def test_a_restored_store_has_what_was_there_at_the_backup(tmp_path: Path) -> None:
    backup, restore, run, export, rehearse = blocks(PAGE, "sh")
    with Reader(tmp_path, "9180") as reader:
        reader.save("turnout.yaml", CONFIGURATION)
        with reader.started_apart() as before:
            before.shell(run)
            reader.wait_ready()
            assert _reward(reader, _decision(reader))["accepted"] == 1
            wait_for(lambda: _counted(reader) == 1, "the reward is counted")
            reader.shell(backup)
            later = _decision(reader)
            assert _reward(reader, later)["accepted"] == 1
            wait_for(lambda: _counted(reader) == 2, "the second reward is counted")
            wait_for(lambda: _variant(reader)["assigned"] == 2, "both decisions are recorded")
            reader.shell(export)
            assert (tmp_path / "record.jsonl").read_text().count("\n") == 2
        reader.shell(restore)
        reader.shell(run)
        reader.wait_ready()
        assert _counted(reader) == 1
        assert _reward(reader, later)["accepted"] == 1, "an id from after the backup is still valid"
        reader.shell(rehearse)
        reader.wait_ready("9180")
        assert _counted(reader, "9180") == 1


def _decision(reader: Reader) -> str:
    return httpx.post(f"{reader.url()}/predict", json={}).headers["x-decision-id"]


def _reward(reader: Reader, decision: str) -> dict[str, int]:
    sent = {"decision_id": decision, "metric": "correct", "value": True}
    received: dict[str, int] = httpx.post(f"{reader.url()}/-/feedback", json=sent).json()
    return received


def _variant(reader: Reader, port: str = GATEWAY) -> dict[str, Any]:
    variant: dict[str, Any] = reader.route("predict", port)["variants"]["v1"]
    return variant


def _counted(reader: Reader, port: str = GATEWAY) -> int:
    return int(_variant(reader, port)["rewards"].get("correct", {"count": 0})["count"])
