"""docs/shadow_first.md, run as it stands: the fault shows, and the corrected version passes the gate."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

from tests.compat.canary import compared_or_dropped
from tests.docs.reader import Reader, blocks, wait_for

pytestmark = pytest.mark.slow

PAGE = "docs/shadow_first.md"


def test_a_fault_shows_in_the_shadow_and_a_sound_version_passes_the_gate(tmp_path: Path) -> None:
    server, traffic = blocks(PAGE, "python")
    shadow, canary = blocks(PAGE, "yaml")
    start, gateway, send, look, corrected, status = blocks(PAGE, "sh")
    current, faulty = start.splitlines(keepends=True)
    with Reader(tmp_path, "9001", "9002") as reader:
        reader.save("server.py", server)
        reader.save("traffic.py", traffic)
        reader.save("turnout.yaml", shadow)
        with reader.started_apart() as version:
            reader.shell(current)
            version.shell(faulty)
            reader.wait("9001", "9002")
            reader.shell(gateway)
            reader.wait_ready()
            _send(reader, send)
            while _compared(reader) < 120:  # the machine is so busy that copies are dropped
                _send(reader, send)
            seen, _, disagreement = reader.shell(look).partition("{")
        agreed = re.search(r"shadow v2: (\d+)\.\d%", seen)
        assert agreed is not None
        assert 20 <= int(agreed[1]) <= 80
        assert "sum" in json.dumps(json.loads("{" + disagreement))
        reader.shell(corrected.replace("kill %2\n", ""))
        reader.wait("9002")
        reader.save("turnout.yaml", canary)
        wait_for(lambda: reader.route("predict")["rollout"] is not None, "the gate is in force")
        assert "rollout: running, shadow" in reader.shell(status)
        for _ in range(5):  # the gate wants 150 comparisons
            _send(reader, send)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: _phase(reader) == "canary", "the candidate passes the gate", limit=10.0)
                break
        assert _phase(reader) == "canary"
        assert "stage 1 at 10.0%" in reader.shell(status)


def _send(reader: Reader, send: str) -> None:
    """And wait until all copies are compared or dropped."""
    reader.shell(send)

    def done() -> bool:
        report = reader.route("predict")
        offered: int = report["shadow_counts"]["v2"]["offered"]
        return compared_or_dropped(report, "v2") == offered

    wait_for(done, "the copies are compared")


def _phase(reader: Reader) -> str:
    return str(reader.route("predict")["rollout"]["phase"])


def _compared(reader: Reader) -> int:
    return int(reader.route("predict")["agreement"]["v2"]["compared"])
