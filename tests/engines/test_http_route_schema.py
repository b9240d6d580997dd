"""The HTTPRoutes that Turnout leaves behind are valid by the published schema of the Gateway API."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.engines.cluster import http_route, world
from tests.support.custom_resources import NEEDS_SCHEMAS, said

EXAMPLE = Path(__file__).parents[2] / "examples/kubernetes_canary"

pytestmark = NEEDS_SCHEMAS


async def test_what_is_written_is_valid() -> None:
    example = yaml.safe_load((EXAMPLE / "httproute.yaml").read_text())
    gamma = http_route(parent={"group": "", "kind": "Service", "name": "digits", "port": 8080})
    written = []
    for found in (example, gamma):
        async with world(found) as it:
            it.publish({"v1": 1 / 3, "v2": 2 / 3})
            await it.accepted()
            written.append(it.found)
            assert written[-1]["spec"]["rules"][0]["backendRefs"][0]["weight"] == 333_333
    assert said(example, *written) == [[], [], []]


def test_the_example_of_envoy_gateway_is_valid() -> None:
    assert said(*yaml.safe_load_all((EXAMPLE / "envoyproxy.yaml").read_text())) == [[], []]


def test_the_schema_can_refuse() -> None:
    (found,) = said(http_route(weights={"v1": 1_000_001, "v2": 0}))
    assert [error["instancePath"] for error in found] == ["/spec/rules/0/backendRefs/0/weight"]
