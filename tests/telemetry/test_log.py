"""Text that a client wrote, in the log and on a terminal."""

from __future__ import annotations

import logging

import pytest

from gateway.commands.output import say
from gateway.config.service import LogConfig
from gateway.telemetry.log import configure

FORGED = "resumed: \x1b]0;x\x07\x9b2J\r\u2028\u202e\n2026-11-29 11:20:52,435 INFO turnout: all is well\tü"


def test_nothing_that_is_logged_looks_like_another_entry_or_steers_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    try:
        configure(LogConfig())
        logging.getLogger("turnout.test").info("%s", FORGED)
        logging.getLogger("turnout.test").error("failed", exc_info=ValueError(FORGED))
    finally:
        root.setLevel(level)
    first, second, failed, *trace = capsys.readouterr().err.splitlines()
    shown = r"resumed: \x1b]0;x\x07\x9b2J\r\u2028\u202e"
    assert first.endswith(f"INFO turnout.test: {shown}")
    assert second == "  2026-11-29 11:20:52,435 INFO turnout: all is well\tü"
    assert failed.endswith("ERROR turnout.test: failed")
    assert trace == [f"ValueError: {shown}", second]


def test_a_report_of_a_command_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("v1: \x1b[2Jgone\nv2: ü")
    assert capsys.readouterr().out == "v1: \\x1b[2Jgone\nv2: ü\n"
