"""The dashboard of a gateway that really runs, with real backends: one of them dead, one behind a canary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.children import free_port
from tests.browser.conftest import Tabs
from tests.e2e.common import wait_for
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics: {correct: {type: boolean}}
backends:
  well: {url: "http://127.0.0.1:@WELL@"}
  dead: {url: "http://127.0.0.1:@DEAD@"}
routes:
  legacy:
    match: {path: /legacy}
    variants: {new: {backend: dead}}
    policy: {type: single, variant: new}
  shop:
    match: {path: /shop}
    unit: {header: x-user}
    variants: {v1: {backend: well}, v2: {backend: well}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 30%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 2%}]
"""
LEGACY = """variants: {new: {backend: dead}}
    policy: {type: single, variant: new}"""
SPLIT = """variants: {new: {backend: dead}, old: {backend: well}}
    policy: {type: split, weights: {new: 3, old: 1}}"""


class Answering(Handler):
    def do_GET(self) -> None:
        self.respond({})


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    backend = HttpServer(Answering)
    text = CONFIG.replace("@WELL@", str(backend.server_port)).replace("@DEAD@", str(free_port()))
    with GatewayProcess(tmp_path, text) as found:
        yield found
    backend.stop()


def test_a_backend_that_refuses_every_request_is_told_everywhere(gateway: GatewayProcess, tabs: Tabs) -> None:
    """T2, whole: state of the address, metric, alarm, and both pages."""
    health = tabs.new(gateway.url, "/-/dashboard/routes/legacy/health").page
    health.locator("#health", has_text="No response yet").wait_for()
    for _ in range(40):
        assert httpx.get(f"{gateway.url}/legacy").status_code == 502
    health.locator("#health", has_text="attempts failed").wait_for()

    def address() -> Any:
        (found,) = httpx.get(f"{gateway.url}/-/routes/legacy").json()["health"]["new"]
        return found

    wait_for(lambda: address()["failing"]["attempts"] >= 40)  # the report may be a second old
    assert address()["state"] == "failing"
    assert address()["failing"]["error"] == "backend_connect"

    def told() -> list[str]:
        metrics = httpx.get(f"{gateway.url}/-/metrics").text.splitlines()
        return sorted(m.rsplit(" ", 1)[1] for m in metrics if m.startswith("turnout_backend_failing{"))

    wait_for(lambda: told() == ["0.0", "1.0"])
    tab = tabs.new(gateway.url)
    row = tab.page.locator('[data-group="needs"] [data-route="legacy"]')
    row.wait_for()
    row.filter(has_text="new does not serve. Unreachable: each attempt since").wait_for()
    tab.page.get_by_role("link", name="legacy").click()
    tab.page.locator("#verdict", has_text="new does not serve").wait_for()
    tab.page.get_by_role("alert").filter(has_text="new fails: 40 of 40 requests").filter(
        has_text="Last error: unreachable."
    ).wait_for()


def test_a_canary_is_rolled_back_from_the_page(gateway: GatewayProcess, tabs: Tabs) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        for k in range(60):
            response = client.get("/shop", headers={"x-user": f"user {k}"})
            assert response.status_code == 200

    def story() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(
            f"{gateway.url}/-/decisions/{response.headers['x-decision-id']}"
        ).json()
        return found

    wait_for(lambda: story()["outcome"])
    text = httpx.get(f"{gateway.url}/-/config").text.replace(LEGACY, SPLIT)
    checked = httpx.post(f"{gateway.url}/-/config/check", json={"text": text}).json()
    assert checked["shares"] == {"legacy": {"before": {"new": 1.0}, "after": {"new": 0.75, "old": 0.25}}}
    assert "legacy: shares new 100% → 75%, old 25%" in checked["changes"]
    tab = tabs.new(gateway.url, f"/-/dashboard/decisions/{story()['decision']}")
    tab.page.locator("#why", has_text="Canary, stage 1, epoch 1").wait_for()
    point = float(tab.page.locator('[data-field="draw.point"]').get_attribute("data-value") or "nan")
    assert point == story()["draw"]["point"]
    assert (point < 0.3) == (story()["outcome"]["assigned"] == "v2"), "the candidate has the first part"
    tab = tabs.new(gateway.url, "/-/dashboard/routes/shop")
    tab.page.locator("#rollout", has_text="30% of the traffic goes to v2").wait_for()
    tab.page.get_by_role("button", name="Set share").click()
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_label("Percent").fill("45")
    dialog.get_by_label("Reason").fill("half of Europe")
    dialog.get_by_role("button", name="Set share").click()
    tab.page.locator("#rollout", has_text="45% of the traffic goes to v2").wait_for()
    tab.page.get_by_text("Differences are only of the newest epoch that had two variants").wait_for()
    tab.page.get_by_role("button", name="Roll back").click()
    tab.page.locator("#rollout", has_text="Rolled back").wait_for()
    tab.page.locator(".verdict", has_text="By anonymous.").wait_for()
    overview = tabs.new(gateway.url).page
    overview.locator(
        '[data-route="shop"]', has_text=re.compile(r"Rolled back by anonymous (just now|\d+ (s|min) ago)\.")
    ).wait_for()
    shares = httpx.get(f"{gateway.url}/-/routes/shop").json()["allocation"]
    assert shares == {"v1": 1.0, "v2": 0.0}
    response = httpx.get(f"{gateway.url}/shop", headers={"x-user": "late"})
    wait_for(lambda: story()["outcome"])
    overview.goto(f"{gateway.url}/-/dashboard/decisions/{story()['decision']}")
    overview.locator("#why", has_text="Canary, rolled back, epoch").wait_for()
    tab.page.get_by_role("link", name="History").click()
    tab.page.locator("[data-step=rollout]", has_text="half of Europe").wait_for()
