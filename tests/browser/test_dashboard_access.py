"""Every page for everybody: axe-core finds nothing serious, and nothing scrolls sideways from 320 px up."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx
import pytest

from tests.browser.conftest import Tabs
from tests.browser.serving import Served

pytestmark = pytest.mark.browser

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
"""axe-core 4.14.1 of npm, MPL-2.0 (vendor/axe-LICENSE.txt)."""
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
SHOTS = os.environ.get("TURNOUT_SCREENSHOTS", "")
"""A directory that keeps a picture of every page in every width, to be looked at."""
BAD = ("serious", "critical")
PAGES = (
    "",
    "routes/digits",
    "routes/digits/time",
    "routes/digits/health",
    "routes/digits/history",
    "routes/digits/shadow/v3",
    "routes/shop",
    "routes/quiet",
    "routes/none",
    "outcomes",
    "decisions/DECISION",
    "config",
    "events",
    "login",
)


def test_axe_is_the_one_that_is_named() -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == AXE_SHA256


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(lived: Served, tabs: Tabs, scheme: str) -> None:
    listed = httpx.get(f"{lived.address}/-/outcomes?limit=1").json()["outcomes"]
    found: dict[str, list[str]] = {}
    for path in PAGES:
        path = path.replace("DECISION", listed[0]["decision"])
        # Trusted Types would keep the tool itself out; it is the page that is looked at.
        tab = tabs.new(lived.address, f"/-/dashboard/{path}", color_scheme=scheme, bypass_csp=True)
        tab.refused.add(404)
        tab.settled()
        if path == "config":
            tab.page.get_by_role("button", name="Edit").click()
            tab.page.locator("#edit", has_text="Nothing is changed yet").wait_for()
        tab.page.evaluate(AXE.read_text())
        result = tab.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        bad = [
            v
            for v in result["violations"]
            if v["impact"] in ("serious", "critical") or v["id"] == "page-has-heading-one"
        ]
        if bad:
            found[path] = [f"{v['id']}: {v['nodes'][0]['html'][:160]}" for v in bad]
    assert not found


@pytest.mark.parametrize("width", [320, 768, 1180, 1440])
def test_no_page_scrolls_sideways_and_no_column_is_lost(lived: Served, tabs: Tabs, width: int) -> None:
    wide = {}
    for path in PAGES[:-1]:
        path = path.replace("decisions/DECISION", "events")
        tab = tabs.new(lived.address, f"/-/dashboard/{path}", width=width)
        tab.refused.add(404)
        tab.settled()
        if SHOTS:
            tab.page.screenshot(
                path=Path(SHOTS) / f"{path.replace('/', '_') or 'home'}_{width}.png", full_page=True
            )
        over = tab.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        cut = tab.page.locator(".table-scroll").evaluate_all(
            "all => all.some(x => x.scrollWidth > x.clientWidth + 1)"
        )
        if over > 0 or (cut and width >= 768):
            wide[path] = (over, cut)
    assert not wide
