"""docs/first_bandit.md, run as it stands: the better version gets the traffic, and the stop rule names it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.docs.reader import Reader, blocks, wait_for

pytestmark = pytest.mark.slow

PAGE = "docs/first_bandit.md"


def test_the_bandit_finds_the_version_that_users_like(tmp_path: Path) -> None:
    server, users = blocks(PAGE, "python")
    configuration, stop = blocks(PAGE, "yaml")
    start, gateway, requests, status = blocks(PAGE, "sh")
    with Reader(tmp_path, "9001", "9002") as reader:
        reader.save("server.py", server)
        reader.save("users.py", users)
        reader.save("turnout.yaml", configuration)
        reader.shell(start)
        reader.wait("9001", "9002")
        assert "valid, 1 route" in reader.shell(gateway)
        reader.wait_ready()
        reader.shell(requests)
        wait_for(
            lambda: reader.route("recommend")["allocation"]["new"] > 0.949,
            "the better version gets the traffic",
        )
        assert "new 95.0%" in reader.shell(status)
        before, _, after = configuration.partition("    policy:\n")
        reader.save("turnout.yaml", before + stop + "    fallback:" + after.partition("    fallback:")[2])
        _wait_for_winner(reader, users, requests)
        assert "new has won" in reader.shell(status)


def _wait_for_winner(reader: Reader, users: str, requests: str) -> None:
    """With more users where the chance of the first thousand does not suffice."""
    for thousand in range(1, 8):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            stop = reader.route("recommend")["stop"]
            if stop and stop["winner"] is not None:
                assert stop["winner"] == "new"
                return
            time.sleep(0.2)
        reader.save("users.py", users.replace("range(1000)", f"range({thousand}000, {thousand + 1}000)"))
        reader.shell(requests)
    raise AssertionError("the stop rule names no winner")
