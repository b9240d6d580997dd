"""The HTTPRoutes that Turnout leaves behind are valid by the published schema of the Gateway API (an npm package)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.cluster import http_route, world

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
MODULES = Path(sys.prefix, "javascript")
NODE = shutil.which("node") or ""

pytestmark = pytest.mark.skipif(
    not NODE or not (MODULES / "node_modules/@kubernetes-models").exists(),
    reason="'make lint' installs it from npm",
)


def said(*found: Json) -> list[list[Json]]:
    """What the schema says against each object."""
    done = subprocess.run(
        [NODE, str(Path(__file__).with_name("http_route_schema.mjs")), str(MODULES)],
        input="".join(json.dumps(one) + "\n" for one in found),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_what_is_written_is_valid() -> None:
    example = yaml.safe_load((ROOT / "examples/kubernetes_canary/httproute.yaml").read_text())
    gamma = http_route(parent={"group": "", "kind": "Service", "name": "digits", "port": 8080})
    written = []
    for found in (example, gamma):
        async with world(found) as it:
            it.publish({"v1": 1 / 3, "v2": 2 / 3})
            await it.accepted()
            written.append(it.found)
            assert written[-1]["spec"]["rules"][0]["backendRefs"][0]["weight"] == 333_333
    assert said(example, *written) == [[], [], []]


def test_the_schema_can_refuse() -> None:
    (found,) = said(http_route(weights={"v1": 1_000_001, "v2": 0}))
    assert [error["instancePath"] for error in found] == ["/spec/rules/0/backendRefs/0/weight"]
