"""docs/quickstart.md, run as it stands, on other ports; the README shows the same configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.reader import ROOT, Reader, blocks, wait_for

pytestmark = pytest.mark.slow

PAGE = "docs/quickstart.md"


def test_the_canary_of_the_readme_rolls_back_by_itself(tmp_path: Path) -> None:
    start, gateway, one, many, status, reward, corrected = blocks(PAGE, "sh")
    current, faulty = start.splitlines(keepends=True)
    (server,) = blocks(PAGE, "python")
    (configuration,) = blocks(PAGE, "yaml")
    with Reader(tmp_path, "9001", "9002") as reader:
        reader.save("server.py", server)
        reader.save("turnout.yaml", configuration)
        reader.shell(current)
        with reader.started_apart() as version:
            version.shell(faulty)
            reader.wait("9001", "9002")
            _roll_back(reader, gateway, one, many, status, reward)
        reader.shell(corrected.replace("kill %2\n", ""))
        rollout = reader.route("predict")["rollout"]
        assert (rollout["state"], rollout["stage"], rollout["weight"]) == ("running", 0, 0.2)


def _roll_back(reader: Reader, gateway: str, one: str, many: str, status: str, reward: str) -> None:
    assert "valid, 1 route, 2 backends, 1 metric" in reader.shell(gateway)
    reader.wait_ready()
    first = reader.shell(one)
    assert '{"sum":6}' in first
    assert re.search(r"x-variant: v[12]", first)
    assert re.fullmatch(r"\s*600 200\n", reader.shell(many)), "a client noticed"
    wait_for(lambda: reader.route("predict")["rollout"]["state"] == "rolled_back", "it is rolled back")
    seen = reader.shell(status)
    assert "rolled_back" in seen
    assert "error_rate" in seen
    assert "v2 0.0%" in seen
    assert '"accepted":1' in reader.shell(reward).replace(" ", "")


def test_the_commands_of_the_readme_are_those_of_the_quickstart() -> None:
    (console,) = [block for block in blocks("README.md", "console") if "turnout run" in block]
    sent = re.findall(r"--json '(\{.*?\})'", console)
    assert sent[0] in (ROOT / PAGE).read_text()
    assert re.search(
        r"/-/feedback --json '\{\"decision_id\": \".*?\", \"metric\": \"correct\", \"value\": true\}'",
        console,
    )


def test_the_configuration_of_the_readme_is_that_of_the_quickstart() -> None:
    (configuration,) = blocks(PAGE, "yaml")
    assert blocks("README.md", "yaml")[0] == f"# turnout.yaml\n{configuration}"
