"""A store that goes away and comes back under an open page: a real gateway on a real Redis."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.browser.conftest import Tabs
from tests.e2e.test_start_without_store import CONFIG
from tests.support.processes import GatewayProcess
from tests.support.servers import redis_server

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow]


def test_an_open_page_says_that_the_store_is_away_and_when_it_is_back(tmp_path: Path, tabs: Tabs) -> None:
    (tmp_path / "redis").mkdir()
    with (
        redis_server(tmp_path / "redis") as redis,
        GatewayProcess(tmp_path, CONFIG.replace("@REDIS@", str(redis.port))) as gateway,
    ):
        tab = tabs.new(gateway.url)
        tab.refused.add(503)
        tab.page.locator('[data-route="shop"]').wait_for()
        redis.kill()
        alert = tab.page.get_by_role("alert").filter(has_text="The store is unavailable")
        alert.wait_for(timeout=60_000)
        assert httpx.get(f"{gateway.url}/shop").status_code == 200, "the gateway serves"
        assert tab.page.locator("main", has_text="The gateway can't be reached").count() == 0
        assert tab.page.locator('[data-route="shop"]').count() == 1, "what was known stays"
        redis.start()
        alert.wait_for(state="detached", timeout=60_000)
        tab.page.locator(".live.on").wait_for(timeout=60_000)
        tab.complaints[:] = [c for c in tab.complaints if "ERR_" not in c]
