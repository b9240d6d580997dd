"""A store that goes away and comes back under open pages: a real gateway on a real Redis."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab, Tabs
from tests.e2e.test_start_without_store import CONFIG
from tests.support.processes import GatewayProcess
from tests.support.servers import RedisServer, redis_server

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as found:
        yield found


@pytest.fixture
def gateway(tmp_path: Path, redis: RedisServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path, CONFIG.replace("@REDIS@", str(redis.port))) as found:
        yield found


def unavailable(page: Page) -> Any:
    return page.get_by_role("alert").filter(has_text=re.compile("^The store is unavailable"))


def report(gateway: GatewayProcess) -> Any:
    return httpx.get(f"{gateway.url}/-/routes/shop", timeout=30).json()


def opened(tabs: Tabs, gateway: GatewayProcess, path: str = "") -> Tab:
    tab = tabs.new(gateway.url, f"/-/dashboard/{path}")
    tab.refused.add(503)
    return tab


def recovered(*opened: Tab) -> None:
    for tab in opened:
        unavailable(tab.page).wait_for(state="detached")
        tab.page.locator(".live.on").wait_for()
        tab.complaints[:] = [c for c in tab.complaints if "ERR_" not in c]


def test_an_open_page_says_that_the_store_is_away_and_when_it_is_back(
    redis: RedisServer, gateway: GatewayProcess, tabs: Tabs
) -> None:
    tab = opened(tabs, gateway)
    tab.page.locator('[data-route="shop"]').wait_for()
    redis.kill()
    alert = unavailable(tab.page)
    alert.wait_for()
    assert re.search(r"What you see is from \d\d:\d\d [A-Z]", alert.inner_text())
    assert tab.page.locator(".live").inner_text().startswith("Not updated")
    assert httpx.get(f"{gateway.url}/shop").status_code == 200, "the gateway serves"
    assert tab.page.locator("main", has_text="The gateway can't be reached").count() == 0
    assert tab.page.locator('[data-route="shop"]').count() == 1, "what was known stays"
    late = opened(tabs, gateway, "events")
    unavailable(late.page).wait_for()
    redis.start()
    recovered(tab, late)
    late.page.locator("#events", has_text="revision 1 by file").wait_for()


def test_no_change_is_made_or_half_made_while_the_store_is_away(
    redis: RedisServer, gateway: GatewayProcess, tabs: Tabs
) -> None:
    route, history, config = (
        opened(tabs, gateway, path) for path in ("routes/shop", "routes/shop/history", "config")
    )
    route.page.get_by_role("button", name="Promote").click()
    dialog = route.page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("the release is due")
    history.page.get_by_label("Note").fill("a campaign began")
    config.page.get_by_role("button", name="Edit").click()
    text = config.page.get_by_label("Configuration text")
    text.fill(text.input_value().replace("weight: 50%", "weight: 40%"))
    config.page.get_by_role("button", name="Apply…").click()
    before = report(gateway)
    redis.kill()
    unavailable(route.page).wait_for(state="attached")
    nothing = re.compile("Nothing was changed. The store has been unavailable since")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.get_by_role("alert").first).to_have_text(nothing)
    assert dialog.get_by_label("Reason").input_value() == "the release is due"
    route.page.keyboard.press("Escape")
    expect(route.page.get_by_role("button", name="Promote")).to_be_disabled()
    route.page.get_by_role("button", name="Roll back").click()
    expect(route.page.locator(".steering [role=alert]")).to_have_text(nothing)
    history.page.get_by_role("button", name="Add note").click()
    expect(history.page.locator(".note-form [role=alert]")).to_have_text(nothing)
    config.page.get_by_role("dialog").get_by_role("button", name="Apply").click()
    expect(config.page.get_by_role("dialog").get_by_role("alert")).to_have_text(nothing)
    config.page.keyboard.press("Escape")
    redis.start()
    recovered(route, history, config)
    after = report(gateway)
    for field in ("epoch", "revision", "allocation"):
        assert after[field] == before[field]
    assert after["rollout"]["state"] == "running"
    # What was typed is still there, and goes through.
    history.page.get_by_role("button", name="Add note").click()
    history.page.locator("[data-step=note]", has_text="a campaign began").wait_for()
    config.page.get_by_role("button", name="Apply…").click()
    config.page.get_by_role("dialog").get_by_role("button", name="Apply").click()
    config.page.locator(".page-head", has_text="revision 2 is in force").wait_for()
    route.page.get_by_role("button", name="Roll back").click()
    route.page.locator("#rollout", has_text="Rolled back").wait_for()
    steps = httpx.get(f"{gateway.url}/-/routes/shop/history").json()["steps"]
    assert [step["kind"] for step in reversed(steps)][:3] == ["config", "note", "config"]
    assert sum(step["kind"] == "rollout" for step in steps) == 1


def test_a_store_that_hangs_is_told_as_one_that_is_away(
    redis: RedisServer, gateway: GatewayProcess, tabs: Tabs
) -> None:
    assert redis.process is not None
    tab = opened(tabs, gateway, "routes/shop")
    tab.page.get_by_role("button", name="Roll back").wait_for()
    os.kill(redis.process.pid, signal.SIGSTOP)
    try:
        tab.page.get_by_role("button", name="Roll back").click()
        told = tab.page.locator(".steering [role=alert]")
        expect(told).to_have_text(re.compile("^Nothing was changed. The store"))
        unavailable(tab.page).wait_for()
    finally:
        os.kill(redis.process.pid, signal.SIGCONT)
    recovered(tab)
    assert report(gateway)["rollout"]["state"] == "running"
    tab.page.get_by_role("button", name="Roll back").click()
    tab.page.locator("#rollout", has_text="Rolled back").wait_for()
