"""The list of routes, and the headline of a rollout: each line says what the API says, and no more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from gateway.engines.fleet import Poll
from tests.browser.conftest import Tabs
from tests.browser.serving import DIGITS, SHOP, Served
from tests.engines.test_fleet import CONFIG as ENGINES
from tests.support.harness import ROUTES, Harness

pytestmark = pytest.mark.browser

GATE = {"metric": "agreement", "bound": "at_least", "limit": 0.98, "samples": 157}


def rollout(state: str, phase: str, **more: Any) -> dict[str, Any]:
    base = {"stage": 0, "stages": 2, "weight": 0.1, "baseline": "old", "candidate": "new", "verdicts": []}
    return {"state": state, "phase": phase, **base, **more}


def row(tabs: Tabs, served: Served, route: str) -> Any:
    found = tabs.new(served.address).page.locator(f'[data-route="{route}"]')
    found.wait_for()
    return found


def test_a_bound_on_a_level_is_not_told_as_a_difference(served: Served, tabs: Tabs) -> None:
    failed = {**GATE, "verdict": "fail", "estimate": 0.67, "interval": [0.5, 0.8]}
    served.set_rollout("shop", rollout("running", "shadow", stage=-1, min_samples=150, verdicts=[failed]))
    found = row(tabs, served, "shop")
    assert "the gate requires at least 98% and 150 comparisons" in found.inner_text()
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator(".verdict", has_text="agreement 67% (at least 98%)").wait_for()
    assert "as a shadow" in page.locator("#verdict").inner_text()
    assert "pp" not in page.locator(".verdict").inner_text()
    gate = page.locator("#rollout [aria-current=step]")
    assert "new agrees in at least 98%" in gate.inner_text()


def test_a_page_that_hears_of_a_rollback_before_the_shares_says_no_share(served: Served, tabs: Tabs) -> None:
    served.set_rollout("shop", rollout("rolled_back", "canary"))
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator("#verdict", has_text="Rolled back: new gets no traffic").wait_for()


def test_one_of_something_is_told_in_the_singular(served: Served, tabs: Tabs) -> None:
    one = {**GATE, "verdict": "inconclusive", "samples": 1.0, "more_requests": 1}
    served.set_rollout("shop", rollout("running", "canary", verdicts=[one]))
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator(".verdict", has_text="About 1 more request.").wait_for()
    page.locator(".guardrail", has_text="1 sample · about 1 more request").wait_for()
    served.set_rollout("shop", rollout("running", "shadow", verdicts=[one], samples=87, min_samples=150))
    page.locator(".verdict", has_text="About 63 more requests.").wait_for()


def test_a_promoted_candidate_has_the_share_that_it_has(served: Served, tabs: Tabs) -> None:
    evidence = [{**GATE, "metric": "error_rate", "bound": "max_increase", "verdict": "pass", "estimate": 0.0}]
    step = {"source": "running", "target": "promoted", "reason": "passed", "stage": 0, "evidence": evidence}
    served.do(lambda h: h.emit("rollout", "shop", step))
    served.set_rollout("shop", rollout("promoted", "bandit", weight=0.95))
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator("#verdict", has_text="Promoted").wait_for()
    report = httpx.get(f"{served.address}/-/routes/shop").json()
    share = round(report["allocation"][report["candidate"]] * 100)
    assert share < 100
    assert page.locator("#verdict").inner_text() == f"Promoted: new has {share}% of the traffic"
    assert "as a bandit" not in page.locator("#rollout").inner_text(), "it was one before"


def test_a_canary_with_its_bandit_is_not_told_as_a_stage(served: Served, tabs: Tabs) -> None:
    served.set_rollout("shop", rollout("running", "bandit"))
    found = row(tabs, served, "shop")
    assert "as a bandit" in found.inner_text()
    assert "stage 1" not in found.inner_text()


def test_a_rollout_that_waits_says_what_for(served: Served, tabs: Tabs) -> None:
    served.set_rollout("shop", rollout("waiting", "canary", reason="all guardrails passed"))
    assert "all guardrails passed. Promote it or roll it back." in row(tabs, served, "shop").inner_text()
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator(".verdict", has_text="All guardrails passed. Promote it or roll it back.").wait_for()


def test_a_winner_without_a_shown_difference_is_told_in_whole_sentences(served: Served, tabs: Tabs) -> None:
    lead = {"over": "v1", "difference": 0.2, "shrunk": 0.1, "interval": [0.0, 0.3]}
    command = "turnout rollout digits promote"
    asking = {"state": "asking", "winner": "v2", "since": 1.0, "by": "rule", "probability_best": 0.99}
    served.harness.stops["digits"] = {**asking, "lead": lead, "command": command}
    page = tabs.new(served.address, "/-/dashboard/routes/digits").page
    page.locator("#verdict", has_text="The stop rule names v2 the winner").wait_for()
    detail = page.locator(".verdict-words .note").inner_text()
    assert detail == f"Expect a lead of at most about 0.1 over v1 (shrunk from 0.2). To hand over: {command}"


LONG = "search_suggestions_personalised_for_logged_in_customers_v3"


@pytest.fixture
def long(tmp_path: Path) -> Iterator[Served]:
    text = re.sub(r"\bshop\b|\bold\b", LONG, ROUTES)
    found = Served(tmp_path / "turnout.db", text=text).start()
    accuracy, errors = ({LONG: of["old"], "new": of["new"]} for of in (SHOP.accuracy, SHOP.errors))
    found.live(replace(SHOP, route=LONG, accuracy=accuracy, errors=errors), steps=2, per_step=5)
    yield found
    found.stop()


@pytest.mark.parametrize("path", ["", "outcomes", f"routes/{LONG}", f"routes/{LONG}/health"])
def test_a_long_name_fits_a_phone(long: Served, tabs: Tabs, path: str) -> None:
    tab = tabs.new(long.address, f"/-/dashboard/{path}", width=320)
    tab.settled()
    tab.page.get_by_text(LONG).first.wait_for(state="attached")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320
    links = tab.page.locator("header nav a, .tabs a")
    tops = links.evaluate_all(
        "all => new Set(all.map(one => Math.round(one.getBoundingClientRect().y))).size"
    )
    assert tops <= 2, "the links of the pages and those of a route's parts take a line each"
    cut = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length"
    for width in (768, 1280):
        tab.page.set_viewport_size({"width": width, "height": 900})
        assert tab.page.locator(".table-scroll, .route-shares, .route-name").evaluate_all(cut) == 0


def test_no_list_is_told_to_be_empty_before_it_is_known(served: Served, tabs: Tabs) -> None:
    """A gateway that starts needs seconds for the first view; the stream is open by then."""
    services = served.app._services
    made, free = services.overview, asyncio.Event()

    async def late() -> dict[str, dict[str, Any]]:
        await free.wait()
        return await made()

    services.overview = late  # type: ignore[method-assign]
    tab = tabs.new(served.address)
    tab.page.locator(".live.on").wait_for()
    tab.settled()
    assert "Loading" in tab.page.locator("main").inner_text()
    served.loop.call_soon_threadsafe(free.set)
    tab.page.locator('[data-route="shop"]').wait_for()


def test_the_figures_over_time_are_asked_for_with_the_report(served: Served, tabs: Tabs) -> None:
    served.live(DIGITS, steps=3, per_step=20)
    services = served.app._services
    made, free = services.report, asyncio.Event()

    async def late(*given: Any) -> dict[str, Any]:
        await free.wait()
        return await made(*given)

    services.report = late  # type: ignore[assignment]
    page = tabs.new(served.address, "/-/dashboard/routes/digits/time").page
    asked = "performance.getEntriesByType('resource').filter(one => one.name.includes('/series?')).length"
    while not page.evaluate(asked):  # the policy of the page forbids a function that is waited for
        page.wait_for_timeout(20)
    served.loop.call_soon_threadsafe(free.set)
    page.locator('[data-chart="chart-requests"] canvas').wait_for()
    assert page.evaluate(asked) == 1


def test_the_traffic_of_the_last_hour_is_drawn_by_variant(lived: Served, tabs: Tabs) -> None:
    found = row(tabs, lived, DIGITS.route)
    spark = found.locator('[data-field="trend"]')
    listed = httpx.get(f"{lived.address}/-/routes").json()["routes"]
    trend = next(one["trend"] for one in listed if one["route"] == DIGITS.route)
    totals = [sum(step) for step in zip(*trend["expected"].values(), strict=True)]
    assert sum(totals) > 0
    assert trend["since"] % trend["step"] == 0
    drawn = [float(total) for total in (spark.get_attribute("data-value") or "").split(",")]
    assert drawn == pytest.approx(totals)
    assert "of the traffic" in (spark.locator("svg").get_attribute("aria-label") or "")
    still = row(tabs, lived, SHOP.route).locator('[data-field="trend"] svg')
    assert still.get_attribute("aria-label") == "The last hour: no share moved."


def test_the_agreement_of_a_shadow_is_drawn_over_time(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits/time?range=3600")
    chart = tab.page.locator('[data-chart="chart-agreement"]')
    chart.locator("canvas").wait_for()
    until = lived.clock()
    series = httpx.get(
        f"{lived.address}/-/routes/digits/series?since={until - 3600}&until={until}&step=20"
    ).json()["agreement"]
    compared = httpx.get(f"{lived.address}/-/routes/digits").json()["agreement"]["v3"]["compared"]
    assert compared > 0
    # Of the first buckets too few responses are in the window for this.
    assert series[-1]["shadows"]["v3"]["mean"] > 0.9
    chart.get_by_role("button", name="Table").click()
    chart.locator("tbody td", has_text=re.compile(r"n\s=\s")).first.wait_for()


def test_steps_older_than_the_latest_events_are_marked_on_the_charts(served: Served, tabs: Tabs) -> None:
    step = {"source": "running", "target": "paused", "reason": "why", "stage": 0, "weight": 0.1}
    served.live(SHOP, steps=3, per_step=10)
    served.do(lambda h: h.emit("rollout", "shop", step))
    served.wind(1)
    for _ in range(210):
        served.do(lambda h: h.emit("ejection", "shop", {"backend": "a", "state": "ejected"}))
    served.wind(30)
    served.live(SHOP, steps=3, per_step=10)
    tab = tabs.new(served.address, "/-/dashboard/routes/shop/time")
    tab.page.locator('[data-chart="chart-requests"] canvas').wait_for()
    latest, listed, steps = 200, 6, 2  # the configuration and the pause come with a request of their own
    earlier = tab.page.locator('[data-field="marks.earlier"]')
    expect(earlier).to_have_attribute("data-value", str(latest - listed + steps), timeout=60_000)


async def polls(harness: Harness) -> None:
    """A node that has what it was offered, and one that refuses it."""
    closing = asyncio.Event()
    for node, refused in (("e1", ""), ("e2", "no such cluster")):
        offer = await harness.fleet.poll(Poll("edge", node, "routes", ""), closing)
        closing.set()  # the next one is not held
        await harness.fleet.poll(
            Poll("edge", node, "routes", "" if refused else offer.version, refused), closing
        )
        closing.clear()


MIRRORED = """\
    mirror: {backend: b, share: 5%}
  copies:
    match: {path: /digits}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
  weighted: {engine: cluster, variants: {v1: {}, v2: {}}, policy: {type: split, weights: {v1: 1, v2: 1}}}
"""
CLUSTER = "{cluster: {type: kubernetes, token: a-token-of-the-cluster, namespace: n, server: 'http://127.0.0.1:1'}, "


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "engines.db", text=ENGINES.replace("{", CLUSTER, 1) + MIRRORED).start()
    yield found
    found.stop()


def test_the_nodes_of_a_routes_engine_stand_on_its_page(fleet: Served, tabs: Tabs) -> None:
    fleet.do(polls)
    tab = tabs.new(fleet.address, "/-/dashboard/routes/digits/health")
    tab.page.locator('[data-node="e1"]').wait_for()
    edge, _ = sorted(httpx.get(f"{fleet.address}/-/engines").json()["engines"], key=lambda one: one["type"])
    states = {node["node"]: node["state"] for node in edge["nodes"]}
    assert states["e2"] == "refused"
    for name, state in states.items():
        shown = tab.page.locator(f'[data-field="engines.edge.{name}.state"]')
        assert shown.get_attribute("data-value") == state
    assert "no such cluster" in tab.page.locator('[data-node="e2"]').inner_text()
    tab.page.get_by_text("the nodes below send the requests and judge addresses themselves").wait_for()


def test_a_route_without_addresses_has_no_empty_table_of_them(fleet: Served, tabs: Tabs) -> None:
    page = tabs.new(fleet.address, "/-/dashboard/routes/weighted/health").page
    page.get_by_role("heading", name="Nodes of cluster").wait_for()
    expect(page.get_by_role("heading", name="Addresses")).to_have_count(0)


def test_the_route_of_an_engine_leads_to_the_route_of_its_copies_and_back(fleet: Served, tabs: Tabs) -> None:
    page = tabs.new(fleet.address, "/-/dashboard/routes/digits/health").page
    page.get_by_text("Copies of its requests that reach this gateway").get_by_role("link").click()
    page.locator("h1", has_text="copies").wait_for()
    page.get_by_role("link", name="Health").click()
    page.get_by_text("Requests here are copies of those of").get_by_role("link", name="digits").click()
    page.wait_for_url("**/routes/digits")
