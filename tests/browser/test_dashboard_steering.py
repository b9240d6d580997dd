"""Steering and editing from a page: for those who may, asked before, refused when stale, kept with its reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Tabs
from tests.browser.serving import Served
from tests.dashboards import glossary
from tests.support.harness import ROUTES, auth

pytestmark = pytest.mark.browser

STATE = {
    "state": "running",
    "phase": "canary",
    "stage": 0,
    "stages": 2,
    "weight": 0.1,
    "baseline": "old",
    "candidate": "new",
    "verdicts": [],
    "possible": ["pause", "promote", "rollback", "set", "restart"],
    "leads_to": {
        "promote": {"state": "promoted", "phase": "canary", "stage": 1, "weight": 1.0},
        "restart": {"state": "running", "phase": "canary", "stage": 0, "weight": 0.05},
    },
}


UNIT = "    unit: {header: x-user}\n"
SHOP = "    match: {path: /v2/models/shop}\n"


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Served]:
    text = auth() + ROUTES.replace(SHOP, SHOP + UNIT)
    found = Served(tmp_path / "turnout.db", text=text, start=time.time() - 60).start()
    found.set_rollout("shop", dict(STATE))
    yield found
    found.stop()


def log_in(served: Served, tabs: Tabs, key: str, *, steer: bool, path: str = "routes/shop") -> Page:
    tab = tabs.new(served.address)
    tab.refused |= {403, 409}
    tab.page.get_by_label("API key").fill(key)
    if steer:
        tab.page.get_by_label("Look and steer").check()
    tab.page.get_by_role("button", name="Log in").click()
    tab.page.locator("[data-route]").first.wait_for()
    tab.page.goto(f"{served.address}/-/dashboard/{path}")
    tab.page.locator("h1").wait_for()
    return tab.page


def test_a_reader_and_a_session_that_only_looks_have_no_buttons(keyed: Served, tabs: Tabs) -> None:
    for key, steer in (("reader", True), ("ops", False)):
        page = log_in(keyed, tabs, key, steer=steer)
        page.locator("#rollout").wait_for()
        page.wait_for_timeout(500)
        assert page.get_by_role("button", name="Roll back").count() == 0
        assert page.get_by_role("button", name="Promote").count() == 0
        page.goto(f"{keyed.address}/-/dashboard/routes/shop/history")
        page.locator("[data-step=config]").wait_for()
        link = page.locator("[data-step=config]").get_by_role("link", name="difference")
        expect(link).to_have_count(0)  # to the configuration, which they may not see


def test_a_rollback_is_one_click_and_on_every_open_page_within_two_seconds(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    other = log_in(keyed, tabs, "reader", steer=False)
    other.locator("#rollout", has_text="Running").wait_for()
    page.get_by_role("button", name="Roll back").click()
    other.locator("#rollout", has_text="Rolled back").wait_for()
    page.locator("#rollout", has_text="Rolled back").wait_for()
    assert page.get_by_role("dialog").count() == 0


def test_routes_are_steered_from_the_overview_by_those_who_may(keyed: Served, tabs: Tabs) -> None:
    """A question stays while its route moves to another group, and a click beside it opens no page."""
    page = log_in(keyed, tabs, "ops", steer=True, path="")
    other = log_in(keyed, tabs, "reader", steer=True, path="")
    page.locator("[data-group=moving] [data-route=shop]").wait_for()
    page.get_by_role("button", name="Pause shop").wait_for()
    stage = page.locator("[data-route=shop] .route-does abbr", has_text="stage")
    assert stage.get_attribute("title") == dict(glossary.terms())["stage"]
    other.locator("[data-route=shop]").wait_for()
    other.get_by_role("button", name="Log out").wait_for()  # what its session may do is known
    assert other.locator(".route-row button").count() == 0
    assert page.locator("[data-route=shop] button").all_inner_texts() == [
        "Pause",
        "Restart",
        "Promote",
        "Roll back",
    ]
    heights = page.locator(".route-row").evaluate_all("rows => rows.map(row => row.clientHeight)")
    assert max(heights) < 60, "buttons take no line, so that 20 routes fit one screen"
    shown = "button => (style => [style.opacity, style.pointerEvents])(getComputedStyle(button.closest('.steering')))"
    assert page.get_by_role("button", name="Pause shop").evaluate(shown) == ["0", "none"]
    page.get_by_role("button", name="Promote shop").focus()
    assert page.get_by_role("button", name="Pause shop").evaluate(shown) == ["1", "auto"]
    page.get_by_role("button", name="Promote shop").click()
    dialog = page.get_by_role("dialog", name="Promote new?")
    assert (
        "100.0% of the users" in dialog.inner_text()
        or "90% of the users change variant." in dialog.inner_text()
    )
    dialog.get_by_label("Reason").fill("the release is due")
    keyed.set_rollout("shop", {**STATE, "state": "waiting"})
    dialog.get_by_text("state has changed since").wait_for()
    page.locator("[data-group=needs] [data-route=shop]").wait_for(state="attached")
    assert dialog.get_by_label("Reason").input_value() == "the release is due"
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    keyed.set_rollout("shop", dict(STATE))
    page.locator("[data-group=moving] [data-route=shop]").wait_for()
    page.get_by_role("button", name="Roll back shop").press("Enter")
    page.get_by_role("status").get_by_text("shop: Rolled back").wait_for(state="attached")
    other.locator("[data-route=shop]", has_text="Rolled back").wait_for()
    assert page.url.endswith("/-/dashboard/")
    link = page.locator("[data-group=needs] [data-route=shop] .route-name a")
    expect(link, "the row is drawn again, in another group").to_be_focused()
    assert page.get_by_role("dialog").count() == 0


def test_a_promotion_says_what_will_be_true_and_keeps_its_reason(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog", name="Promote new?")
    assert "new gets 100% of the traffic (now 10%)" in dialog.inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert keyed.harness.rollouts["shop"]["state"] == "running"
    page.get_by_role("button", name="Promote").click()
    dialog.get_by_label("Reason").fill("the release is due")
    dialog.get_by_role("button", name="Promote").click()
    page.locator("#rollout", has_text="Promoted").wait_for()
    page.get_by_role("link", name="History").click()
    page.locator("[data-step=rollout]", has_text="the release is due").wait_for()


def test_a_restart_says_where_it_leads_and_what_it_forgets(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Restart").click()
    dialog = page.get_by_role("dialog", name="Restart the rollout?")
    says = dialog.get_by_role("listitem").all_inner_texts()
    assert says[0] == "new gets 5% of the traffic (now 10%), old 95%, immediately."
    assert says[1] == "That is stage 1."
    assert says[2] == "5% of the users change variant."
    assert says[3].startswith("Guardrails count only requests and rewards from then on")
    assert keyed.harness.rollouts["shop"]["state"] == "running"
    dialog.get_by_label("Reason").fill("a new build")
    dialog.get_by_role("button", name="Restart").click()
    dialog.wait_for(state="detached")
    page.get_by_role("link", name="History").click()
    page.locator("[data-step=rollout]", has_text="a new build").wait_for()


def test_a_rollout_that_was_rolled_back_is_restarted_by_one_button(keyed: Served, tabs: Tabs) -> None:
    """There `resume` and `restart` lead to the same."""
    possible = ["resume", "promote", "set", "restart"]
    keyed.set_rollout("shop", STATE | {"state": "rolled_back", "weight": 0.0, "possible": possible})
    page = log_in(keyed, tabs, "ops", steer=True)
    page.locator(".steering button").first.wait_for()
    assert page.locator(".steering button").all_inner_texts() == ["Set share", "Restart", "Promote"]


def test_a_manual_gate_is_confirmed_where_it_is_shown(keyed: Served, tabs: Tabs) -> None:
    waits = {
        "state": "waiting",
        "weight": 0.05,
        "reason": "minimum time, samples and all guardrails passed; the stage of 50.0% waits for a confirmation",
        "possible": ["pause", "confirm", "promote", "rollback", "set", "restart"],
        "leads_to": {"confirm": {"state": "running", "phase": "canary", "stage": 1, "weight": 0.5}},
    }
    keyed.set_rollout("shop", STATE | waits)
    page = log_in(keyed, tabs, "ops", steer=True, path="")
    row = page.locator("[data-group=needs] [data-route=shop]")
    row.get_by_text("the stage of 50.0% waits for a confirmation. Confirm it or roll it back.").wait_for()
    row.get_by_role("button", name="Confirm shop").click()
    dialog = page.get_by_role("dialog")
    said = dialog.get_by_role("listitem").all_inner_texts()
    assert said[:2] == ["new gets 50% of the traffic (now 10%), old 50%, immediately.", "That is stage 2."]
    dialog.get_by_label("Reason").fill("looked at the responses")
    dialog.get_by_role("button", name="Confirm").click()
    dialog.wait_for(state="detached")
    assert keyed.harness.rollouts["shop"]["state"] == "running"


def test_a_stage_that_client_errors_hold_is_resumed_on_the_page(keyed: Served, tabs: Tabs) -> None:
    held = {"metric": "client_error_rate", "verdict": "inconclusive", "bound": "max_increase", "limit": 0.01}
    held["reason"] = "client errors: 50.0% of the candidate's responses, 0.0% of the baseline's"
    same = {"state": "running", "phase": "canary", "stage": 0, "weight": 0.1}
    found = {"verdicts": [held], "possible": ["resume"], "leads_to": {"resume": same}}
    page = log_in(keyed, tabs, "ops", steer=True)
    dialog = page.get_by_role("dialog", name="Resume the rollout?")
    for state, told in (("running", "Client errors: 50.0%"), ("paused", "Paused")):
        keyed.set_rollout("shop", STATE | found | {"state": state})
        page.locator(".verdict", has_text=told).wait_for()
        page.get_by_role("button", name="Resume").click()
        dialog.get_by_text("The client errors so far are accepted for this stage").wait_for()
        dialog.get_by_role("button", name="Cancel").click()


def test_a_resumed_bandit_and_a_promotion_with_a_holdback_are_told_as_they_are(
    keyed: Served, tabs: Tabs
) -> None:
    led = {
        "promote": {"state": "promoted", "phase": "canary", "stage": 1, "weight": 0.95},
        "resume": {"state": "running", "phase": "bandit", "stage": 1, "weight": None},
    }
    paused = {"state": "paused", "phase": "bandit", "possible": ["resume", "promote"], "leads_to": led}
    keyed.set_rollout("shop", STATE | paused)
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog")
    assert "The bandit decides again what new and old get." in dialog.inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Promote").click()
    said = dialog.get_by_role("listitem").all_inner_texts()
    assert said[0] == "new gets 95% of the traffic (now 10%), old 5%, immediately."
    assert said[1] == "When its bake is over, new gets 100%."


def test_the_share_is_set_by_a_slider_that_says_its_consequence(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Set share").click()
    dialog = page.get_by_role("dialog")
    slider = dialog.get_by_role("slider")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    assert "new gets 15%, old 85%, immediately. 5% of the users change variant" in dialog.inner_text()
    dialog.get_by_role("button", name="Set share").click()
    dialog.wait_for(state="detached")
    assert keyed.harness.rollouts["shop"]["weight"] == pytest.approx(0.15)


def test_without_a_unit_no_user_changes_variant(keyed: Served, tabs: Tabs) -> None:
    """Each request is drawn."""
    text = keyed.text.replace(UNIT, "")
    headers = {"authorization": "Bearer ops", "if-match": "*"}
    edited = httpx.put(f"{keyed.address}/-/config", content=text, headers=headers)
    assert edited.status_code == 200, edited.text
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("new gets 100% of the traffic (now 10%), old 0%, immediately").wait_for()
    assert "users" not in dialog.inner_text()


def test_promoting_past_a_failed_guardrail_needs_the_routes_name(keyed: Served, tabs: Tabs) -> None:
    failed = {
        "metric": "error_rate",
        "verdict": "fail",
        "bound": "max_increase",
        "limit": 0.01,
        "estimate": 0.06,
    }
    keyed.set_rollout("shop", STATE | {"verdicts": [failed]})
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    press = dialog.get_by_role("button", name="Promote")
    assert press.is_disabled()
    dialog.get_by_label("Type shop to go on").fill("shop")
    assert press.is_enabled()


def test_a_change_from_a_stale_page_is_refused(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True)
    page.get_by_role("button", name="Promote").click()
    keyed.set_rollout("shop", STATE | {"state": "paused"})
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    alert = page.get_by_role("dialog").get_by_role("alert")
    alert.wait_for()
    told = "Nothing was changed. The rollout is paused now; look again."
    assert alert.inner_text() == told
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator(".steering").get_by_role("alert")).to_have_text(told)
    assert keyed.harness.rollouts["shop"]["state"] == "paused"


def test_a_bandits_winner_can_be_handed_over_to(keyed: Served, tabs: Tabs) -> None:
    keyed.harness.stops["digits"] = {
        "state": "asking",
        "winner": "v2",
        "since": keyed.clock(),
        "by": "rule",
        "probability_best": 0.99,
        "command": "turnout rollout digits promote",
    }
    page = log_in(keyed, tabs, "ops", steer=True, path="routes/digits")
    page.locator("#verdict", has_text="The stop rule names v2 the winner").wait_for()
    page.get_by_role("button", name="Hand over").click()
    assert "v2 gets 100% of the traffic" in page.get_by_role("dialog", name="Hand over to v2?").inner_text()
    page.locator("#happened").wait_for()
    notes, key = f"{keyed.address}/-/routes/digits/notes", {"authorization": "Bearer ops"}
    httpx.post(notes, json={"text": "v2 has it"}, headers=key).raise_for_status()
    keyed.harness.stops["digits"] |= {"state": "handed_over"}
    page.locator("#happened", has_text="v2 has it").wait_for()
    other = log_in(keyed, tabs, "reader", steer=False, path="")
    digits = other.locator("[data-route=digits]")
    digits.get_by_text("v2 has won and gets everything.").wait_for()


def test_a_bandit_that_an_alarm_holds_is_resumed(keyed: Served, tabs: Tabs) -> None:
    keyed.harness.holds["digits"] = "sample_ratio_mismatch: it does not fit"
    page = log_in(keyed, tabs, "ops", steer=True, path="routes/digits")
    page.get_by_role("button", name="Resume").click()
    asked = page.get_by_role("dialog", name="Resume the bandit?")
    assert "sample_ratio_mismatch: it does not fit" in asked.inner_text()
    assert "Guardrails are judged from then on." in asked.inner_text()
    asked.get_by_role("button", name="Resume").click()
    asked.wait_for(state="detached")
    page.get_by_role("button", name="Resume").wait_for(state="detached")
    assert keyed.harness.holds == {}
    keyed.harness.holds["digits"] = "sample_ratio_mismatch: again"
    page.get_by_role("link", name="Routes").click()
    waiting = page.locator(
        "[data-group=needs] [data-route=digits]", has_text="until it is resumed: sample_ratio"
    )
    waiting.wait_for()
    page.get_by_role("button", name="Resume digits").click()
    asked = page.get_by_role("dialog", name="Resume the bandit?")
    assert "sample_ratio_mismatch: again" in asked.inner_text()

    def answered_late(route: Route) -> None:
        response = route.fetch()
        page.locator("[aria-label='Resume digits']").wait_for(state="detached")
        route.fulfill(response=response)

    page.route("**/rollout", answered_late)
    asked.get_by_role("button", name="Resume").press("Enter")
    asked.wait_for(state="detached")
    expect(page.locator("[data-route=digits] .route-name a")).to_be_focused()


def test_a_note_is_written_into_the_history(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True, path="routes/shop/history")
    page.get_by_label("Note").fill("<b>campaign</b> began")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.evaluate("""() => {
        const button = document.querySelector(".note-form button");
        button.click();
        setTimeout(() => button.click());  // the second of a double click
    }""")
    page.locator("[data-step=note]", has_text="<b>campaign</b> began · by ops").wait_for()
    assert len(sent) == 1
    page.get_by_role("link", name="Over time").click()
    page.locator(".marks", has_text="Note: <b>campaign</b> began").wait_for()


def test_an_edit_is_checked_while_typing_applied_and_restored(keyed: Served, tabs: Tabs) -> None:
    page = log_in(keyed, tabs, "ops", steer=True, path="config")
    page.get_by_role("button", name="Edit").click()
    text = page.get_by_label("Configuration text")
    before = text.input_value()
    text.fill(before.replace("floor: 1%", "flor: 1%"))
    fault = page.locator(".fault")
    fault.wait_for()
    line = before[: before.index("floor: 1%")].count("\n") + 1
    assert fault.get_attribute("data-line") == str(line)
    assert page.get_by_role("button", name="Apply…").is_disabled()
    assert keyed.harness.revision().revision == 1
    text.fill(before.replace("floor: 1%", "floor: 5%"))
    page.locator(".says", has_text="routes.digits.policy.floor: 1% → 5%").wait_for()
    assert "needs a restart: nothing" in page.locator("#edit").inner_text()
    text.fill(before.replace("weight: 10%", "weight: 30%"))
    page.locator(".says", has_text="shop: shares old 90% → 70%, new 10% → 30%").wait_for()
    text.fill(before.replace("floor: 1%", "floor: 5%"))
    page.locator(".says", has_text="routes.digits.policy.floor: 1% → 5%").wait_for()
    page.get_by_role("button", name="Apply…").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("v3 starved: größerer Anteil")
    page.get_by_role("dialog").get_by_role("button", name="Apply").click()
    page.locator(".page-head", has_text="revision 2 is in force").wait_for()
    page.locator("[data-revision='2']", has_text="by ops v3 starved: größerer Anteil").wait_for()
    assert "floor: 5%" in keyed.harness.revision().document
    page.locator("[data-revision='2']").get_by_role("button", name="Difference").click()
    page.locator("#difference .diff .added", has_text="floor: 5%").wait_for()
    assert "What it changed." in page.locator("#difference").inner_text()
    page.get_by_role("button", name="◂ Revision 1").click()
    page.locator("#difference", has_text="What was changed since.").wait_for()
    page.locator("#difference .diff .added", has_text="floor: 5%").wait_for()
    page.get_by_role("button", name="Restore revision 1…").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("no better")
    page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    page.locator(".page-head", has_text="revision 3 is in force").wait_for()
    page.locator("[data-revision='3']", has_text="restore of revision 1: no better").wait_for()
    page.goto(f"{keyed.address}/-/dashboard/routes/shop/history")
    step = page.locator("[data-step=config]", has_text="by ops · restore of revision 1: no better")
    step.get_by_role("link", name="difference").wait_for()
    assert keyed.harness.revision().document == before


def test_disagreements_lead_to_the_story_of_a_decision(
    lived: Served, tabs: Tabs, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits")
    beside = httpx.get(f"{lived.address}/-/routes/digits/shadow?shadow=v3").json()
    row = tab.page.locator('[data-latency="v3"]')
    for field, value in (
        ("latency_ms.p50", beside["latency_ms"]["p50"]),
        ("latency.p50", beside["latency"]["p50"]["relative"]),
        ("failed", 0),
    ):
        shown = row.locator(f'[data-field="shadow.v3.{field}"]').get_attribute("data-value")
        assert float(shown or "nan") == value
    tab.page.get_by_role("link", name="Disagreements of v3").click()
    first = tab.page.locator("[data-decision]").first
    first.wait_for()
    found = httpx.get(f"{lived.address}/-/routes/digits/disagreements?shadow=v3&order=worst&limit=30").json()
    assert tab.page.locator("[data-decision]").evaluate_all("n => n.map(x => x.dataset.decision)") == [
        one["decision"] for one in found["disagreements"]
    ]
    assert dict(found["kinds"]) == {"outputs.label[*]": found["seen"]}
    assert first.locator("tbody td").all_inner_texts() == ["8", "3"]
    tab.page.get_by_role("button", name=f"All {found['seen']}").wait_for()
    monkeypatch.setattr("gateway.control.handlers.history.MAX_RESPONSES", 3)
    tab.page.goto(f"{tab.page.url}?order=newest")
    tab.page.get_by_text("The newest 3 are listed and counted by kind").wait_for()
    monkeypatch.undo()
    tab.page.go_back()
    tab.page.get_by_role("button", name=f"All {found['seen']}").wait_for()
    tab.page.set_viewport_size({"width": 320, "height": 900})
    wide = "cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.innerText)"
    assert first.locator("th").evaluate_all(wide) == [], "each heading fits its column"
    first.get_by_role("link").click()
    tab.page.locator("#why").wait_for()
    decision = tab.page.url.rsplit("/", 1)[1]
    story = httpx.get(f"{lived.address}/-/decisions/{decision}").json()
    shown = tab.page.locator('[data-field="propensity"]').get_attribute("data-value")
    assert float(shown or "nan") == story["outcome"]["propensity"]
    still = tab.page.locator("#rewards .note", has_text="Still accepted").inner_text()
    assert still.count(", ") == still.count(" until ") - 1
    assert "v3 differs" in tab.page.locator("#shadows").inner_text()
    for field in ("gateway_ms", "backend_ms"):
        shown = tab.page.locator(f'[data-field="{field}"]').get_attribute("data-value")
        assert float(shown or "nan") == story["outcome"][field]
    said = tab.page.locator("#rewards li").all_inner_texts()
    assert [one["type"] for one in story["rewards"]] == ["boolean"] * len(said)
    assert [text.split(" after ")[0] for text in said] == [
        f"{one['metric']} = {'true' if one['value'] else 'false'}" for one in story["rewards"]
    ]
    reported = {one["metric"] for one in story["rewards"]}
    for metric, until in story["open_until"].items():
        if metric not in reported:
            shown = tab.page.locator(f'[data-field="open_until.{metric}"]').get_attribute("data-value")
            assert float(shown or "nan") == until


def test_outcomes_are_filtered_by_the_address_and_exported(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/outcomes?route=shop&errors=true")
    tab.page.locator("[data-decision]").first.wait_for()
    listed = httpx.get(f"{lived.address}/-/outcomes?route=shop&errors=true&limit=50").json()["outcomes"]
    assert tab.page.locator("[data-decision]").count() == len(listed)
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="Export CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines == httpx.get(f"{lived.address}/-/outcomes.csv?route=shop&errors=true").text.splitlines()
    assert len(lines) >= len(listed) + 1
    tab.page.get_by_label("Failed only").uncheck()
    tab.page.wait_for_function(
        "count => document.querySelectorAll('[data-decision]').length > count", arg=len(listed)
    )
    assert "errors" not in tab.page.url
    status = tab.page.get_by_label("Status")
    status.press_sequentially("200")  # focus stays in the field
    tab.page.wait_for_url("**status=200*")
    expect(tab.page.locator("[data-decision] td:nth-child(4)").first).to_have_text("200")
    status.fill("")
    tab.page.wait_for_url(lambda address: "status" not in address)
    tab.page.get_by_text("More filters").click()
    with tab.page.expect_response(lambda response: "/-/outcomes?" in response.url):
        tab.page.get_by_label("Took at least, ms").fill("60")  # and it stays while the list is read again
    tab.page.get_by_label("Took at least, ms").press("Enter")
    tab.page.wait_for_url("**min_ms=60*")
    slow = httpx.get(f"{lived.address}/-/outcomes?route=shop&min_ms=60&limit=50").json()["outcomes"]
    shown = "n => n.map(x => x.dataset.decision)"
    tab.page.locator(f'[data-decision="{slow[-1]["decision"]}"]').wait_for()
    assert tab.page.locator("[data-decision]").evaluate_all(shown) == [one["decision"] for one in slow]
    moment = slow[len(slow) // 2]["time"]
    tab.page.goto(f"{lived.address}/-/dashboard/outcomes?route=shop&since={int(moment)}")
    assert tab.page.evaluate(
        "new Date(document.querySelector('input[type=datetime-local]').value) / 1000"
    ) == int(moment)
    tab.page.goto(f"{lived.address}/-/dashboard/outcomes?since=1e20&until=-1e20")
    tab.refused.add(422)
    tab.page.locator("main").get_by_role("alert").get_by_text("'since': this is not a time").wait_for()
    assert tab.page.locator("h1").inner_text() == "Outcomes"
