"""docs/troubleshooting.md and docs/upgrade.md say what the gateway says."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import CODES
from gateway.state.sqlite.schema import MIGRATIONS
from tests.docs.reader import ROOT, blocks

CONFIGURATION = """
listen: 127.0.0.1:0
store: sqlite:///turnout.db
"""


def test_codes_and_statuses_of_the_troubleshooting_page_are_real() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    named = re.findall(r"\b([45]\d\d) `(\w+)`", text)
    assert len(named) > 8
    assert [(status, code) for status, code in named if CODES[code].status != int(status)] == []


def test_the_codes_of_rejected_rewards_are_those_of_the_api_page() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    section = text.split("## Rewards are rejected")[1].split("## ")[0]
    codes = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    api = (ROOT / "docs/api.md").read_text()
    assert codes
    assert [code for code in codes if f"`{code}`" not in api] == []


@pytest.mark.long
def test_an_older_release_refuses_a_newer_store_as_the_upgrade_page_says(tmp_path: Path) -> None:
    newest = len(MIGRATIONS)
    (shown,) = [block for block in blocks("docs/upgrade.md", "") if "its version" in block]
    with sqlite3.connect(tmp_path / "turnout.db") as connection:
        connection.execute(f"PRAGMA user_version = {newest + 1}")
    (tmp_path / "turnout.yaml").write_text(CONFIGURATION)
    run = [sys.executable, "-m", "gateway.cli", "run", "--config", "turnout.yaml"]
    done = subprocess.run(
        run, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert re.sub(r"\d+", "N", shown.strip()) in re.sub(r"\d+", "N", done.stderr)
