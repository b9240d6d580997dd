"""Every page for everybody: axe-core finds nothing serious, and nothing scrolls sideways from 320 px up."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx
import pytest

from tests.browser.conftest import Tab, Tabs
from tests.browser.serving import Served

pytestmark = pytest.mark.browser

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
"""axe-core 4.14.1 of npm, MPL-2.0 (vendor/axe-LICENSE.txt)."""
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
SHOTS = os.environ.get("TURNOUT_SCREENSHOTS", "")
"""A directory that keeps a picture of every page in every width, to be looked at."""
BAD = ("serious", "critical")
WIDTHS = (320, 768, 1180, 1440)
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
ANY_CUT = "all => all.some(x => x.scrollWidth > x.clientWidth + 1)"
PAGES = (
    "", "routes/digits", "routes/digits/time", "routes/digits/health", "routes/digits/history",
    "routes/digits/shadow/v3", "routes/shop", "routes/quiet", "routes/none", "outcomes", "decisions/DECISION",
    "config", "events", "terms", "login",
)  # fmt: skip


def test_axe_is_the_one_that_is_named() -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == AXE_SHA256


def faults(tab: Tab, **options: object) -> list[str]:
    """What axe finds: each rule, and the first element that breaks it."""
    result = tab.page.evaluate(
        "options => axe.run(document, options)", {"resultTypes": ["violations"], **options}
    )
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:160]}"
        for v in result["violations"]
        if v["impact"] in BAD or v["id"] == "page-has-heading-one"
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path or "home")
def test_a_page_fits_every_width_and_axe_finds_nothing_serious(lived: Served, tabs: Tabs, path: str) -> None:
    listed = httpx.get(f"{lived.address}/-/outcomes?limit=1").json()["outcomes"]
    path = path.replace("DECISION", listed[0]["decision"])
    # Trusted Types would keep the tool itself out; it is the page that is looked at.
    tab = tabs.new(lived.address, f"/-/dashboard/{path}", color_scheme="light", bypass_csp=True)
    tab.refused.add(404)
    tab.settled()
    if path == "config":
        tab.page.get_by_role("button", name="Edit").click()
        tab.page.locator("#edit", has_text="Nothing is changed yet").wait_for()
    tab.page.evaluate(AXE.read_text())
    for width in WIDTHS:
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.settled()
        if width == min(WIDTHS):  # where some texts are hidden
            assert not faults(tab, runOnly=["link-name", "button-name", "label"])
        if SHOTS:
            name = f"{path.replace('/', '_') or 'home'}_{width}.png"
            tab.page.screenshot(path=Path(SHOTS) / name, full_page=True)
        assert tab.page.evaluate(TOO_WIDE) <= 0, f"it scrolls sideways at {width}"
        cut = tab.page.locator(".table-scroll").evaluate_all(ANY_CUT)
        assert not cut or width < 768, f"a table loses a column at {width}"
    assert not faults(tab)
    tab.page.emulate_media(color_scheme="dark")
    tab.settled()
    assert not faults(tab, runOnly=["color-contrast"])
