"""docs/replicas.md, run as it stands, with a real Redis: two gateways decide and count as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.reader import Reader, blocks, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.redis]

PAGE = "docs/replicas.md"
REPLICAS = ("8080", "8081")


def test_two_replicas_are_one_gateway(tmp_path: Path) -> None:
    (server,) = blocks(PAGE, "python")
    (configuration,) = blocks(PAGE, "yaml")
    servers, gateways, requests, edit, status = blocks(PAGE, "sh")
    with Reader(tmp_path, "8081", "6379", "9001") as reader:
        reader.save("server.py", server)
        reader.save("turnout.yaml", configuration)
        reader.shell(servers)
        reader.wait("9001")
        wait_for(lambda: "Ready to accept" in (tmp_path / "redis.log").read_text(), "Redis starts")
        reader.shell(gateways)
        for port in REPLICAS:
            reader.wait_ready(port)
        seen = reader.shell(requests)
        variants = [line.split()[1] for line in seen.splitlines() if line.lower().startswith("x-variant")]
        assert len(variants) == 2
        assert len(set(variants)) == 1
        assert '"accepted":1' in seen
        reader.shell(edit)
        edited = {"v1": 0.75, "v2": 0.25}
        wait_for(
            lambda: all(reader.route("predict", port)["allocation"] == edited for port in REPLICAS),
            "both apply the edit",
        )
        assert reader.shell(status).count("v1 75.0%, v2 25.0%") == 2
        assert [_rewards(reader.route("predict", port)) for port in REPLICAS] == [1, 1]


def _rewards(route: dict[str, Any]) -> int:
    return sum(v["rewards"].get("correct", {"count": 0})["count"] for v in route["variants"].values())
