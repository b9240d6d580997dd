"""The page follows the gateway, says when it can't, and lets only readers in."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Error, Request, Route, expect

from tests.browser.conftest import Tabs
from tests.browser.serving import DIGITS, Served
from tests.support.harness import ROUTES, Harness
from tests.support.seed import World

pytestmark = pytest.mark.browser
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_new_traffic_and_rewards_appear_by_themselves(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address, "/-/dashboard/routes/digits")
    figure = tab.page.locator('[data-field="recent.assigned"]')
    figure.wait_for()
    assert figure.get_attribute("data-value") == "0"
    served.live(DIGITS, steps=3, per_step=20)
    tab.page.locator('[data-field="recent.assigned"][data-value="60"]').wait_for()
    served.live(DIGITS, steps=3, per_step=20, seed=2)
    tab.page.locator('[data-field="recent.assigned"][data-value="120"]').wait_for()
    epoch = served.harness.route_status("digits").epoch  # type: ignore[union-attr]
    tab.page.locator(f'[data-field="epoch"][data-value="{epoch}"]').wait_for()


def test_a_rollout_that_is_with_its_bandit_says_so(served: Served, tabs: Tabs) -> None:
    state = {"state": "running", "phase": "bandit", "stage": 0, "weight": 0.4, "verdicts": []}
    served.set_rollout("shop", state)
    tab = tabs.new(served.address, "/-/dashboard/routes/shop")
    rollout = tab.page.locator("#rollout")
    rollout.wait_for()
    assert "as a bandit" in rollout.inner_text()
    assert rollout.locator("[aria-current=step]").inner_text().startswith("bandit")
    step = {
        "source": "running",
        "target": "running",
        "phase": "bandit",
        "stage": 0,
        "weight": 0.4,
        "reason": "why",
    }
    served.do(lambda h: h.emit("rollout", "shop", step))
    tab.page.locator("#happened", has_text="running, bandit").wait_for()


def test_an_event_is_shown_within_a_second_or_two(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address, "/-/dashboard/routes/shop/health")
    tab.page.locator("#events").wait_for()
    served.do(lambda h: h.emit("rollout", "shop", {"message": "stage 2 began"}))
    tab.page.locator("#events", has_text="stage 2 began").wait_for()
    served.do(lambda h: h.emit("note", "shop", {"text": "keep \u202eit", "author": "ann"}))
    tab.page.locator("#events", has_text="keep it · by ann").wait_for()  # and not turned: "nna yb"


FAST = "{ const now = Date.now; Date.now = () => now() + 3_600_000; }"


def test_how_long_ago_something_was_counts_by_the_gateways_clock(served: Served, tabs: Tabs) -> None:
    """The reader's own is an hour fast."""
    tab = tabs.new(served.address, "/-/dashboard/terms")
    tab.page.add_init_script(FAST)
    tab.page.goto(f"{served.address}/-/dashboard/events")
    tab.page.locator(".live.on").wait_for()
    served.clock.at = time.time()
    served.do(lambda h: h.emit("note", "shop", {"text": "it began"}))
    noted = tab.page.locator("#events li", has_text="it began").locator("time")
    expect(noted).to_have_text(re.compile(r"just now|\d s ago"))


def test_an_update_keeps_focus_and_what_was_opened(served: Served, tabs: Tabs) -> None:
    served.live(DIGITS, steps=2, per_step=20)
    tab = tabs.new(served.address, "/-/dashboard/routes/digits")
    tab.page.locator(".pictures summary").click()
    tab.page.locator('[data-picture="quantiles"]').wait_for()
    tab.page.locator(".pictures summary").focus()
    served.live(DIGITS, steps=2, per_step=20, seed=5)
    tab.page.locator('[data-field="recent.assigned"][data-value="80"]').wait_for()
    assert tab.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert tab.page.locator('[data-picture="quantiles"]').is_visible()


def test_a_hidden_page_asks_for_nothing(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address, "/-/dashboard/routes/digits", clock=True)
    tab.page.locator("#verdict").wait_for()
    asked: list[str] = []
    tab.page.evaluate(HIDE, True)
    tab.page.wait_for_timeout(300)
    tab.page.on("request", lambda r: asked.append(r.url))
    tab.page.clock.run_for(11_000)
    tab.page.wait_for_timeout(500)
    assert asked == []
    with tab.page.expect_request(lambda r: "/events" in r.url and "view=route%3Adigits" in r.url):
        tab.page.evaluate(HIDE, False)


def test_a_gateway_that_hangs_is_not_called_live(served: Served, tabs: Tabs) -> None:
    """It accepts the connection and sends nothing: what was seen before the page was hidden looked like now."""
    tab = tabs.new(served.address, "/-/dashboard/routes/digits", clock=True)
    tab.page.locator(".live.on").wait_for()
    tab.page.evaluate(HIDE, True)
    held: list[Route] = []
    tab.page.route("**/-/events?**", lambda route: held.append(route))
    tab.page.clock.run_for(30_000)
    tab.page.evaluate(HIDE, False)
    tab.page.locator(".live", has_text="Connecting").wait_for()
    tab.page.clock.run_for(26_000)
    alert = tab.page.get_by_role("alert").filter(
        has_text="The gateway does not respond. What you see is from"
    )
    alert.wait_for()
    tab.page.unroute_all()
    for route in held:
        with suppress(Error):  # the page itself may have given up
            route.abort()
    tab.page.clock.run_for(2000)
    tab.page.locator(".live.on").wait_for()
    tab.complaints[:] = [c for c in tab.complaints if "ERR_" not in c]


def test_a_page_opened_in_the_background_is_filled_once_it_is_shown(served: Served, tabs: Tabs) -> None:
    tab = tabs.new("about:blank", "")
    tab.origin = served.address
    tab.page.add_init_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    tab.page.goto(f"{served.address}/-/dashboard/routes/digits/shadow/v3?cursor=x")  # of an older page
    tab.refused.add(422)
    tab.page.get_by_text("Loading…").wait_for()
    tab.page.evaluate(HIDE, False)
    tab.page.get_by_text("Loading…").wait_for(state="detached")


def test_what_got_no_response_is_asked_for_again(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address, clock=True)
    tab.page.locator("[data-route=digits]").wait_for()
    tab.page.route("**/history?**", lambda route: route.abort())
    tab.page.goto(f"{served.address}/-/dashboard/routes/digits/history")
    tab.page.locator("#history", has_text="The gateway does not respond.").wait_for()
    tab.page.unroute_all()
    tab.page.clock.run_for(6000)
    tab.page.locator("#history [data-step]").first.wait_for()
    tab.complaints[:] = [c for c in tab.complaints if "ERR_" not in c]


def test_a_page_that_cannot_be_drawn_says_so(served: Served, tabs: Tabs) -> None:
    """Its frame said "Live" above nothing, or above the figures of before."""
    tab = tabs.new(served.address, "/-/dashboard/terms")
    tab.page.route("**/-/outcomes?*", lambda route: route.fulfill(json={"outcomes": None}))
    tab.page.get_by_role("link", name="Outcomes").click()
    tab.page.get_by_role("heading", name="This page can't be drawn").wait_for()
    tab.page.get_by_role("link", name="All routes").click()
    tab.page.locator("[data-route=digits]").wait_for()
    assert any("TypeError" in c for c in tab.complaints)
    tab.complaints.clear()


def test_a_gateway_that_is_gone_is_said_to_be_and_what_was_known_stays(served: Served, tabs: Tabs) -> None:
    served.live(DIGITS, steps=2, per_step=20)
    tab = tabs.new(served.address, "/-/dashboard/routes/digits")
    tab.page.locator("#verdict").wait_for()
    tab.page.context.set_offline(True)
    served.do(cut)
    tab.page.locator(".live.off", has_text="Unreachable").wait_for()
    tab.page.get_by_role("alert").filter(has_text="can't be reached").wait_for()
    assert tab.page.locator('[data-variant="v1"]').count() == 1
    tab.page.context.set_offline(False)
    tab.page.locator(".live.on").wait_for()
    assert tab.page.get_by_role("alert").count() == 0
    tab.complaints[:] = [c for c in tab.complaints if "ERR_" not in c]


async def cut(harness: Harness) -> None:
    """Ends every stream, as a gateway that drains does."""
    harness.readiness = (False, "it drains")
    await asyncio.sleep(1.0)
    harness.readiness = (True, "")


def test_a_route_that_is_none_is_said_to_be(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address, "/-/dashboard/routes/none")
    tab.refused.add(404)
    notice = tab.page.locator(".notice", has_text="No such route")
    notice.wait_for()
    assert tab.page.locator("h1").inner_text() == "No such route"
    text = (
        served.text
        + "  none: {match: {path: /none}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}\n"
    )
    httpx.put(f"{served.address}/-/config", content=text, headers={"if-match": "*"}).raise_for_status()
    tab.page.locator("#happened").wait_for()
    tab.page.get_by_role("link", name="Health").click()
    tab.page.locator("#events", has_text="revision 2").wait_for()
    httpx.put(f"{served.address}/-/config", content=served.text, headers={"if-match": "*"}).raise_for_status()
    notice.get_by_role("link").click()
    tab.page.locator('[data-route="digits"]').wait_for()


def test_without_a_key_nobody_gets_in_and_with_one_everybody_may_leave(locked: Served, tabs: Tabs) -> None:
    tab = tabs.new(locked.address)
    page = tab.page
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").filter(has_text="The key is unknown").wait_for()
    page.get_by_label("API key").fill("inferrer")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").filter(has_text="may not read").wait_for()
    page.get_by_label("API key").fill("digits-reader")
    page.get_by_role("button", name="Log in").click()
    page.locator('[data-route="digits"]').wait_for()
    assert page.locator("[data-route]").count() == 1
    assert page.evaluate("document.cookie") == "", "scripts do not see the login"
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("API key").wait_for()
    page.goto(locked.address + "/-/dashboard/")
    page.get_by_label("API key").wait_for()
    page.goto(locked.address + "/-/dashboard/login?refused=rate_limited&wait=6")
    page.get_by_role("alert").filter(has_text="Try again in 6 seconds.").wait_for()


def test_a_log_out_that_was_refused_is_told(locked: Served, tabs: Tabs) -> None:
    """The form was shown as if no one were logged in."""
    tab = tabs.new(locked.address)
    tab.refused.add(503)
    tab.page.get_by_label("API key").fill("reader")
    tab.page.get_by_label("API key").press("Enter")
    tab.page.locator('[data-route="digits"]').wait_for()
    error = {
        "error": {"code": "store_unavailable", "message": "Nothing was changed. The store is unavailable."}
    }
    tab.page.route("**/dashboard/logout", lambda call: call.fulfill(status=503, json=error))
    tab.page.get_by_role("button", name="Log out").click()
    tab.page.get_by_role("alert").filter(has_text="Nothing was changed").wait_for()
    tab.page.get_by_role("link", name="All routes").click()
    tab.page.locator('[data-route="digits"]').wait_for()


def test_a_key_that_may_not_see_a_route_is_told_so(locked: Served, tabs: Tabs) -> None:
    tab = tabs.new(locked.address)
    tab.refused |= {403}
    tab.page.get_by_label("API key").fill("digits-reader")
    tab.page.get_by_label("API key").press("Enter")
    tab.page.locator('[data-route="digits"]').wait_for()
    tab.page.goto(locked.address + "/-/dashboard/routes/shop")
    tab.page.get_by_role("alert").filter(has_text="may not see this").wait_for()


def test_an_ended_login_leads_to_the_form_and_back_to_the_page(locked: Served, tabs: Tabs) -> None:
    wanted = f"{locked.address}/-/dashboard/routes/digits/time?range=3600"
    tab = tabs.new(locked.address, "/-/dashboard/routes/digits/time?range=3600", clock=True)
    tab.refused.add(401)
    for key in ("wrong", "reader"):
        tab.page.get_by_label("API key").fill(key)
        tab.page.get_by_label("API key").press("Enter")
        tab.page.wait_for_url("**refused**" if key == "wrong" else wanted)
    tab.page.get_by_role("heading", name="digits").wait_for()
    tab.page.context.clear_cookies()
    tab.page.clock.run_for(60_000)
    tab.page.get_by_label("API key").wait_for()
    tab.page.get_by_label("API key").fill("reader")
    tab.page.get_by_label("API key").press("Enter")
    tab.page.wait_for_url(wanted)


def test_the_theme_can_be_chosen_and_is_kept(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address)
    button = tab.page.get_by_role("button", name="change")
    button.click()
    assert tab.page.evaluate("document.documentElement.dataset.theme") == "dark"
    tab.page.reload()
    tab.page.locator("h1").wait_for()
    assert tab.page.evaluate("document.documentElement.dataset.theme") == "dark"


def _note(urls: list[str], request: Request) -> None:
    urls.append(request.url)


def test_an_open_page_is_one_stream_and_a_call_in_ten_seconds_at_most(served: Served, tabs: Tabs) -> None:
    served.live(DIGITS, steps=2, per_step=20)
    asked: dict[str, list[str]] = {"": [], "routes/digits": [], "routes/digits/time": []}
    opened = [tabs.new(served.address, f"/-/dashboard/{path}", clock=True) for path in asked]
    for tab, urls in zip(opened, asked.values(), strict=True):
        tab.settled()
        tab.page.on("request", partial(_note, urls))
    began = [tab.page.evaluate("Date.now()") for tab in opened]
    listed, decide, over_time = (tab.page for tab in opened)
    for seed in range(4):
        served.live(DIGITS, steps=1, per_step=10, step=1.0, seed=seed)
        served.do(lambda h: h.emit("note", "digits", {"text": "a campaign began"}))
        shown = f'assigned"][data-value="{50 + 10 * seed}"]'
        listed.locator(f'[data-field="digits.recent.{shown}').wait_for()  # it arrives on the stream
        decide.locator(f'[data-field="recent.{shown}').wait_for()
        over_time.locator(".marks li", has_text="Note").nth(seed).wait_for()
        for tab in opened:
            tab.page.clock.run_for(8000)
    for tab, start, (path, urls) in zip(opened, began, asked.items(), strict=True):
        seconds = (tab.page.evaluate("Date.now()") - start) / 1000
        assert len(urls) <= 1 + seconds / 10, (path, seconds, urls)
        assert not any("/-/events" in url for url in urls), "the stream stays open"


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Served]:
    """A gateway with 21 routes, 18 of them without traffic."""
    idle = "".join(
        f"  idle-{n:02}:\n    match: {{path: /idle-{n}}}\n    variants: {{v1: {{backend: a}}}}\n"
        "    policy: {type: single, variant: v1}\n"
        for n in range(18)
    )
    found = Served(tmp_path / "crowded.db", text=ROUTES + idle).start()
    found.live(DIGITS, steps=2, per_step=20)
    yield found
    found.stop()


async def has_alarm(harness: Harness, name: str, text: str) -> None:
    await harness.store.save("alarms", name, text, expected=0)


def test_twenty_routes_fit_and_those_that_are_idle_take_little(crowded: Served, tabs: Tabs) -> None:
    tab = tabs.new(crowded.address)
    tab.page.locator('[data-group="moving"] [data-route="digits"]').wait_for()
    assert tab.page.locator("[data-route]").count() == 21
    height = tab.page.locator("#content").evaluate("node => node.getBoundingClientRect().height")
    assert height < 900, "all of them in one screen"
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("idle-0")
    tab.page.wait_for_function("document.querySelectorAll('[data-route]').length === 10")
    tab.page.get_by_role("button", name="Moving 0").click()
    tab.page.wait_for_function("document.querySelectorAll('[data-route]').length === 0")
    tab.page.get_by_role("button", name="Idle 10").click()
    tab.page.get_by_role("link", name="idle-07").click()
    tab.page.locator("h1", has_text="idle-07").wait_for()
    tab.page.go_back()
    tab.page.get_by_role("button", name="Idle 10", pressed=True).wait_for()
    assert "group=idle" in tab.page.url
    alarm = [{"code": "no_rewards", "message": f"No reward was ever reported for v1; {'check it. ' * 9}"}]
    for n in range(4):
        name = f"idle-{n:02}"
        crowded.do(partial(has_alarm, name=name, text=json.dumps(alarm)))
    for n in range(4, 14):
        crowded.live(World(f"idle-{n:02}", {"v1": 1.0}, metric=None), steps=1, per_step=1, step=0.1)
    tab = tabs.new(crowded.address)
    tab.page.locator('[data-group="steady"] [data-route="idle-13"]').wait_for()
    tab.page.locator('[data-group="needs"] [data-route="idle-03"]').wait_for()
    bottom = tab.page.locator("#content").evaluate("node => node.getBoundingClientRect().bottom")
    assert bottom <= 900, "with four that need a person, and ten with traffic"


def test_no_text_of_a_client_can_become_markup(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address)
    tab.page.locator("h1").wait_for()
    script = """() => {
        try { document.createElement("div").innerHTML = "<b>x</b>"; return "set"; }
        catch (error) { return error.name; }
    }"""
    assert tab.page.evaluate(script) == "TypeError", "Trusted Types hold"
    tab.complaints.clear()


def test_a_refused_configuration_stands_above_the_routes(served: Served, tabs: Tabs) -> None:
    served.do(lambda harness: harness.revisions.adopt_file(served.text.replace("floor: 1%", "flor: 1%")))
    tab = tabs.new(served.address)
    alert = tab.page.get_by_role("alert").filter(has_text="A configuration was refused")
    alert.wait_for()
    assert "routes.digits.policy" in alert.inner_text()
    assert "The one in force stays" in alert.inner_text()


def test_a_part_is_loaded_when_it_is_needed_and_said_to_be_missing(served: Served, tabs: Tabs) -> None:
    tab = tabs.new(served.address)
    tab.settled()
    loaded = "performance.getEntriesByType('resource').map(x => x.name).filter(x => x.endsWith('.js')).length"
    assert tab.page.evaluate(loaded) == 1, "the page and one script"
    tab.page.goto(f"{served.address}/-/dashboard/routes/digits")
    tab.settled()
    assert tab.page.evaluate(loaded) == 2, "the part, which the page names, is loaded once"
    tab.page.route("**/config.*.js", lambda route: route.abort())
    tab.page.get_by_role("link", name="Over time").click()
    tab.page.locator('[data-chart="chart-shares"]').wait_for()
    assert tab.page.evaluate(loaded) == 3
    tab.page.get_by_role("link", name="Configuration").click()
    tab.page.get_by_role("alert").filter(has_text="could not be loaded").wait_for()
    tab.page.unroute("**/config.*.js")
    tab.page.get_by_role("button", name="Reload the page").click()
    tab.page.locator("#revisions").wait_for()
    tab.complaints[:] = [c for c in tab.complaints if "ERR_FAILED" not in c]
