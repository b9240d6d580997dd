"""docs/release_cycle.md: its four configurations in order, each with the shares that the page promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.reader import Reader, blocks, wait_for

pytestmark = pytest.mark.slow

PAGE = "docs/release_cycle.md"


def test_two_releases_as_the_page_describes_them(tmp_path: Path) -> None:
    before, rollout, settled, following = blocks(PAGE, "yaml")
    before = "loops: {watch: 100ms}\n" + before
    head = before.partition("routes:")[0]
    with Reader(tmp_path, "9001", "9002") as reader:
        reader.save("turnout.yaml", before)
        reader.shell("turnout run &")
        reader.wait_ready()
        assert _shares(reader) == {"v1": 1.0}

        reader.save("turnout.yaml", head + rollout.replace("bake: 1h", "bake: 1s"))
        assert "valid" in reader.shell("turnout check turnout.yaml")
        wait_for(lambda: _shares(reader) == {"v1": 0.9, "v2": 0.1}, "the canary starts")
        assert "promoted" in reader.shell("turnout rollout predict promote")
        wait_for(lambda: _shares(reader) == {"v1": 0.0, "v2": 1.0}, "the bake ends")

        reader.save("turnout.yaml", head + settled)
        wait_for(lambda: _policy(reader) == "single", "the settled policy is in force")
        assert _shares(reader)["v2"] == 1.0

        reader.save("turnout.yaml", head + following)
        wait_for(lambda: _shares(reader) == {"v2": 0.9, "v3": 0.1}, "the next rollout starts")
        assert "rolled back" in reader.shell("turnout rollout predict rollback")
        wait_for(lambda: _shares(reader) == {"v2": 1.0, "v3": 0.0}, "the candidate has nothing")
        assert "running" in reader.shell("turnout rollout predict resume")


def _shares(reader: Reader) -> dict[str, float]:
    return {name: round(share, 6) for name, share in reader.route("predict")["allocation"].items()}


def _policy(reader: Reader) -> str:
    return str(reader.route("predict")["policy"])
