"""Steering under trouble: what was typed stays, and the page says what happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser.conftest import Tabs
from tests.browser.serving import Served
from tests.browser.test_dashboard_steering import STATE, log_in

pytestmark = pytest.mark.browser


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "turnout.db", keys=True, start=time.time() - 60).start()
    found.set_rollout("shop", dict(STATE))
    yield found
    found.stop()


def test_a_login_that_ends_takes_no_typed_reason(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    tabs.open[-1].refused.add(401)
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("the release is due")
    page.context.clear_cookies()
    dialog.get_by_role("button", name="Promote").click()
    dialog.get_by_role("alert", name="").get_by_text("Your login has ended").wait_for()
    assert keyed.harness.rollouts["shop"]["state"] == "running"
    other = page.context.new_page()
    other.goto(f"{keyed.address}/-/dashboard/login")
    other.get_by_label("API key").fill("ops")
    other.get_by_label("Look and steer").check()
    other.get_by_role("button", name="Log in").click()
    other.locator("[data-route]").first.wait_for()
    assert dialog.get_by_label("Reason").input_value() == "the release is due"
    dialog.get_by_role("button", name="Promote").click()
    dialog.wait_for(state="detached")  # the step is stored before the change is confirmed
    steps = httpx.get(
        f"{keyed.address}/-/routes/shop/history", headers={"authorization": "Bearer ops"}
    ).json()
    assert any(step["data"].get("reason") == "the release is due" for step in steps["steps"])


def test_who_is_slower_of_two_is_told_before_the_answer(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("the release is due")
    other = log_in(keyed, tabs, "pilot", steer=True)
    other.get_by_role("button", name="Pause").click()
    dialog.get_by_role("alert").get_by_text("state has changed since").wait_for()
    assert dialog.get_by_label("Reason").input_value() == "the release is due"


def test_without_a_response_no_one_is_told_what_is_not_known(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    tab = tabs.open[-1]
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("the release is due")
    page.context.set_offline(True)
    dialog.get_by_role("button", name="Promote").click()
    dialog.get_by_text("whether it made the change is not known").wait_for()
    page.context.set_offline(False)
    dialog.get_by_role("button", name="Promote").click()
    page.locator("#rollout", has_text="Promoted").wait_for()
    tab.complaints[:] = [text for text in tab.complaints if "ERR_" not in text]


def test_the_time_for_changes_may_end_before_a_question_is_answered(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("the release is due")
    keyed.wind(16 * 60)
    dialog.get_by_role("button", name="Promote").click()
    dialog.get_by_text("its time for changes is over").wait_for()
    assert dialog.get_by_label("Reason").input_value() == "the release is due"
    assert keyed.harness.rollouts["shop"]["state"] == "running"


def test_an_edit_outlives_its_page_and_anothers_revision(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True, path="config")
    tabs.open[-1].refused.add(412)
    page.get_by_role("button", name="Edit").click()
    text = page.get_by_label("Configuration text")
    before = text.input_value()
    text.fill(before.replace("floor: 1%", "floor: 5%"))
    page.get_by_role("link", name="Events").click()
    page.get_by_role("heading", name="Events").first.wait_for()
    page.get_by_role("link", name="Configuration").click()
    text.wait_for()
    assert "floor: 5%" in text.input_value()
    page.locator(".says", has_text="floor: 1% → 5%").wait_for()
    theirs = httpx.put(
        f"{keyed.address}/-/config",
        content=before.replace("weight: 10%", "weight: 30%"),
        headers={"authorization": "Bearer ops", "if-match": "*"},
    )
    assert theirs.status_code == 200, theirs.text
    page.get_by_role("button", name="Apply…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Apply").click()
    dialog.get_by_text("another revision was applied first").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Revision 2 was applied while you were editing").wait_for()
    assert "floor: 5%" in text.input_value()
    page.locator(
        ".says", has_text="30% → 10%"
    ).first.wait_for()  # the edit would take theirs back, and says so
    text.fill(text.input_value().replace("weight: 10%", "weight: 30%"))
    page.locator(".says", has_text="floor: 1% → 5%").wait_for()
    page.get_by_role("button", name="Apply…").click()
    dialog.get_by_role("button", name="Apply").click()
    page.locator(".page-head", has_text="revision 3 is in force").wait_for()
    assert "weight: 30%" in keyed.harness.revision().document


def test_an_edit_outlives_a_gateway_that_is_away(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True, path="config")
    tab = tabs.open[-1]
    page.get_by_role("button", name="Edit").click()
    text = page.get_by_label("Configuration text")
    text.fill(text.input_value().replace("floor: 1%", "floor: 5%"))
    page.locator(".says", has_text="floor: 1% → 5%").wait_for()
    page.get_by_role("button", name="Apply…").click()
    page.context.set_offline(True)
    dialog = page.get_by_role("dialog")
    asked = f"{keyed.address}/-/config"
    with page.expect_event("requestfailed", lambda sent: (sent.method, sent.url) == ("GET", asked)):
        dialog.get_by_role("button", name="Apply").click()
        dialog.get_by_text("whether it made the change is not known").wait_for()
    page.keyboard.press("Escape")
    assert "floor: 5%" in text.input_value()
    page.context.set_offline(False)
    page.get_by_role("button", name="Apply…").click()
    dialog.get_by_role("button", name="Apply").click()
    page.locator(".page-head", has_text="revision 2 is in force").wait_for()
    tab.complaints[:] = [text for text in tab.complaints if "ERR_" not in text]


def test_what_is_typed_while_the_gateway_is_away_is_checked_when_it_is_back(
    keyed: Served, tabs: Tabs
) -> None:
    """It said that "whether it made the change is not known", and stayed so until the next key."""
    page = log_in(keyed, tabs, "ops", steer=True, path="config")
    tab = tabs.open[-1]
    page.get_by_role("button", name="Edit").click()
    text = page.get_by_label("Configuration text")
    page.context.set_offline(True)
    text.fill(text.input_value().replace("floor: 1%", "floor: 5%"))
    page.get_by_text("The text is checked again when it does").wait_for()
    assert "not known" not in page.locator("#edit").inner_text()
    page.context.set_offline(False)
    page.locator(".says", has_text="floor: 1% → 5%").wait_for()
    tab.complaints[:] = [text for text in tab.complaints if "ERR_" not in text]
