"""docs/first_bandit.md, run as it stands: the better version gets the traffic, and the stop rule names it."""

from __future__ import annotations

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
        wait_for(lambda: _winner(reader) == "new", "the stop rule names the winner", limit=240.0)
        assert "new has won" in reader.shell(status)


def _winner(reader: Reader) -> str | None:
    stop = reader.route("recommend")["stop"]
    return stop and str(stop["winner"])
