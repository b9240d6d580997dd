"""docs/grpc.md: its configuration before two servers, and its calls as one program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs.reader import Reader, blocks, wait_for
from tests.http2.inference import InferenceServer

pytestmark = pytest.mark.slow

PAGE = "docs/grpc.md"


def test_the_calls_of_the_page(tmp_path: Path) -> None:
    (configuration,) = blocks(PAGE, "yaml")
    (feedback,) = blocks(PAGE, "bash")
    servers = {port: InferenceServer().start() for port in ("8001", "8002")}
    with Reader(tmp_path) as reader:
        reader.ports |= {name: server.port for name, server in servers.items()}
        reader.save("turnout.yaml", configuration)
        reader.save("call.py", "\n".join(blocks(PAGE, "python")) + "\nprint(decision_id)\n")
        reader.shell("turnout check && turnout run &")
        reader.wait_ready()
        *values, decision = reader.shell(f"{sys.executable} call.py").split()
        assert values == ["[2.", "4.]"]
        assert '"accepted":1' in reader.shell(feedback.replace("…", decision)).replace(" ", "")
        wait_for(lambda: _counted(reader) == 1, "the reward is counted")
    assert all("" in server.probed for server in servers.values()), "health is asked by gRPC"
    for server in servers.values():
        server.server.stop(None)


def _counted(reader: Reader) -> int:
    variants = reader.route("resnet")["variants"].values()
    return sum(variant["rewards"].get("correct", {"count": 0})["count"] for variant in variants)
