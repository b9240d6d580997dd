"""The page of `turnout report` in a browser: on a screen, on paper, and as the carrier of its data."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests.browser.conftest import Tab, Tabs
from tests.browser.serving import Served
from tests.browser.test_dashboard_access import AXE, SHOTS, TOO_WIDE, WIDTHS, faults
from tests.support.command import turnout

pytestmark = pytest.mark.browser

A4_POINTS = (595, 842)


@pytest.fixture(params=["digits", "shop", "quiet"])
def tab(lived: Served, tabs: Tabs, tmp_path: Path, request: pytest.FixtureRequest) -> Tab:
    out = tmp_path / f"{request.param}.html"
    done = turnout("report", request.param, "--url", lived.address, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return tabs.new("file://", str(out), bypass_csp=True, color_scheme="dark")


def test_it_fits_every_width_and_axe_finds_nothing_serious(tab: Tab, request: pytest.FixtureRequest) -> None:
    for width in WIDTHS:
        tab.page.set_viewport_size({"width": width, "height": 900})
        assert tab.page.evaluate(TOO_WIDE) <= 0, f"it scrolls sideways at {width}"
        if SHOTS:
            name = re.sub(r"\W+", "_", request.node.name)
            tab.page.screenshot(path=Path(SHOTS) / f"{name}_{width}.png", full_page=True)
    tab.page.evaluate(AXE.read_text())
    assert not faults(tab)


def test_it_prints_on_a4_with_the_hash_of_its_data_on_each_sheet(tab: Tab) -> None:
    pdf = tab.page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert len(boxes) > 1
    assert {tuple(round(float(x)) for x in box) for box in boxes} == {A4_POINTS}
    tab.page.emulate_media(media="print")
    assert tab.page.evaluate(TOO_WIDE) <= 0


def test_its_link_saves_the_data_whose_hash_it_states(tab: Tab) -> None:
    link = tab.page.get_by_role("link", name="the data of this page")
    with tab.page.expect_download() as saved:
        link.click()
    data = Path(saved.value.path()).read_bytes()
    assert saved.value.suggested_filename.endswith("-report.json")
    assert tab.page.locator(".facts code").inner_text() == hashlib.sha256(data).hexdigest()
