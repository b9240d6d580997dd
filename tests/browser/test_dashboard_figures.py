"""What the page says is what the API says, in a real browser."""

from __future__ import annotations

import csv
import itertools
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

import dashboards
from tests.browser.conftest import Tab, Tabs
from tests.browser.serving import DIGITS, SHOP, Served
from tests.dashboards import glossary

pytestmark = pytest.mark.browser


def api(served: Served, path: str) -> Any:
    return httpx.get(f"{served.address}/-/{path}", timeout=60).json()


def values(tab: Tab) -> dict[str, str]:
    """Every figure on the page by its field, unrounded."""
    script = "nodes => nodes.map(n => [n.dataset.field, n.dataset.value])"
    return dict(tab.page.locator("[data-field]").evaluate_all(script))


def text(tab: Tab, field: str) -> str:
    return tab.page.locator(f'[data-field="{field}"]').first.inner_text()


def number(value: str) -> float | None:
    return None if value == "" else float(value)


def test_every_figure_of_a_route_equals_the_apis(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits")
    tab.page.locator('[data-variant="v2"]').wait_for()
    report = api(lived, "routes/digits")
    shown = values(tab)
    compared = 0
    for name, variant in report["variants"].items():
        expected = {
            "assigned": variant["assigned"],
            "fallbacks": variant["fallbacks"],
            "probability_best": variant["probability_best"],
            "expected_loss": variant["expected_loss"],
        }
        if variant["assigned"]:
            expected |= {"errors": variant["errors"], "error_rate.mean": variant["error_rate"]["mean"]}
            for q in ("p50", "p99"):
                expected[f"latency_ms.{q}"] = variant["latency_ms"][q]
        if variant["rewards"]["correct"]["count"]:
            expected["rewards.correct.mean"] = variant["rewards"]["correct"]["mean"]
            expected["rewards.correct.count"] = variant["rewards"]["correct"]["count"]
        for metric, lift in variant["lift"].items():
            if metric == "client_error_rate":  # hidden while there are none
                assert not variant["client_errors"]
                continue
            expected[f"lift.{metric}.absolute"] = lift["absolute"]
        for rest, value in expected.items():
            if value is None:
                assert shown.get(f"variants.{name}.{rest}", "") == ""
                continue
            assert number(shown[f"variants.{name}.{rest}"]) == value, (name, rest)
            compared += 1
        assert number(shown[f"allocation.{name}"]) == report["allocation"].get(name, 0)
    assert compared > 20
    heading = tab.page.locator('[data-metric="correct"] h3')
    assert report["metrics"]["correct"]["description"] in heading.inner_text()
    assert number(shown["epoch"]) == report["epoch"]
    assert number(shown["agreement.v3.rate"]) == report["agreement"]["v3"]["rate"]
    assert number(shown["agreement.v3.compared"]) == report["agreement"]["v3"]["compared"]


def test_a_guardrail_that_failed_leaves_no_difference_undecided(served: Served, tabs: Tabs) -> None:
    served.live(SHOP, steps=2, per_step=10)
    failed = {
        "metric": "error_rate",
        "verdict": "fail",
        "bound": "max_increase",
        "limit": 0.01,
        "estimate": 0.5,
    }
    served.set_rollout("shop", {"state": "running", "phase": "canary", "stage": 0, "verdicts": [failed]})
    tab = tabs.new(served.address, "/-/dashboard/routes/shop")
    row = tab.page.locator('[data-metric="error_rate"] [data-row="new"]')
    row.get_by_text("over its limit").wait_for()
    assert row.get_by_text("undecided").count() == 0
    assert (
        tab.page.locator('[data-metric="latency_p50"] [data-row="new"]').get_by_text("undecided").count() == 1
    )


def test_figures_are_rounded_to_what_their_interval_allows(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits")
    tab.page.locator('[data-variant="v2"]').wait_for()
    found = api(lived, "routes/digits")["variants"]["v2"]["rewards"]["correct"]
    low, high = found["interval"]
    assert 0.001 < (high - low) / 2 < 0.01, "the seed makes an interval of some tenths of a percent"
    assert text(tab, "variants.v2.rewards.correct.mean") == f"{found['mean'] * 100:.1f}%"
    row = tab.page.locator('[data-metric="correct"] [data-row="v2"]').inner_text()
    assert f"{low * 100:.1f} – {high * 100:.1f}%" in row
    assigned = api(lived, "routes/digits")["variants"]["v2"]["assigned"]
    assert text(tab, "variants.v2.assigned") == f"{assigned:,}"


FORMAT_JS = (Path(dashboards.__file__).parent / "web/core/format.js").read_text()
FORMATS = """async source => {
  const f = await import("data:text/javascript," + encodeURIComponent(source));
  return [
    f.estimate({mean: 0.1, interval: [0.1, 0.1]}, "real"),
    f.estimate({mean: -0.8, interval: [-0.8, -0.8]}, "real").mean,
    f.difference(0.7, [0.7, 0.7], "real"),
    f.loss(0.7, "real", [0.8, 0.8]),
    f.estimate({mean: 0.1234, interval: [0.1, 0.15]}, "real"),
    f.difference(0.7, [0.5, 0.9], "real").text,
  ];
}"""


def test_figures_without_spread_keep_their_digits(browser: Browser) -> None:
    """A mean of 0.1 was shown as 0, and one of 0.8 as 1, where all values are the same."""
    page = browser.new_page()
    assert page.evaluate(FORMATS, FORMAT_JS) == [
        {"mean": "0.1", "interval": "0.1 – 0.1"},
        "−0.8",
        {"text": "+0.7", "interval": "+0.7 to +0.7"},
        "0.7",
        {"mean": "0.12", "interval": "0.10 – 0.15"},
        "+0.7",
    ]
    page.close()


EDGES = """async source => {
  const f = await import("data:text/javascript," + encodeURIComponent(source));
  return {
    rates: [f.perSecond(99.7), f.perSecond(4.94)],
    tiny: f.estimate({mean: 1.234e-7, interval: [1.1e-7, 1.36e-7]}, "real"),
    apart: f.difference(2e-8, [1e-8, 3e-8], "real"),
    fine: f.estimate({mean: 0.12345678, interval: [0.1234566, 0.1234569]}, "fraction").mean,
    later: f.moment(1764500000 + 7 * 86400, 1764500000) === f.moment(1764500000, 1764500000),
  };
}"""


def test_figures_at_the_edges_are_right(browser: Browser) -> None:
    """99.7 was 1.0e+2, a mean of 1.2e-7 was 0.000000, and a moment in a week had the clock alone."""
    page = browser.new_page()
    assert page.evaluate(EDGES, FORMAT_JS) == {
        "rates": ["100", "4.9"],
        "tiny": {"mean": "0.000000123", "interval": "0.00000011 – 0.000000136"},
        "apart": {"text": "+0.00000002", "interval": "+0.00000001 to +0.00000003"},
        "fine": "12.346%",
        "later": False,
    }
    page.close()


TICKS = """async source => {
  const f = await import("data:text/javascript," + encodeURIComponent(source));
  return [[0, 0.002], [0, 0.0003], [0.9, 0.91], [0, 3], [0.1, 0.10000000000000002]].map(([low, high]) => {
    const { values, step } = f.roundTicks(low, high);
    return values.map(value => f.tick(value, step, "fraction"));
  });
}"""


def test_labels_of_an_axis_are_as_far_apart_as_its_lines(browser: Browser) -> None:
    """T7: steps of 0.05 % were written 0.1%, 0.1%, 0.2%."""
    page = browser.new_page()
    found = page.evaluate(TICKS, FORMAT_JS)
    page.close()
    assert found[0] == ["0.00%", "0.05%", "0.10%", "0.15%", "0.20%"]
    assert len(found.pop()) < 2, "neighbouring floats: the loop did not end"
    for labels in found:
        values = [Decimal(label.removesuffix("%")) for label in labels]
        assert len({b - a for a, b in itertools.pairwise(values)}) == 1, labels


def test_charts_draw_the_series(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits/time")
    chart = tab.page.locator('[data-chart="chart-shares"]')
    chart.locator("canvas").wait_for()
    chart.get_by_role("button", name="Table").click()
    rows = chart.locator("tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    series = api(lived, f"routes/digits/series?since={lived.clock() - 900}&until={lived.clock()}&step=10")
    shares = [round(b["variants"]["v2"]["allocated"] * 100, 1) for b in series["buckets"]]
    told = [float(row[2].rstrip("%").lstrip(">")) for row in rows if row[2] != "–"][::-1]
    # The page asked a little later or earlier; what both know must be the same.
    assert len(told) > 40
    overlap = shares[-30:-5]
    assert any(told[k : k + len(overlap)] == pytest.approx(overlap, abs=0.06) for k in range(len(told)))


def test_the_points_of_a_chart_are_saved_as_they_are(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits/time?metric=correct")
    chart = tab.page.locator('[data-chart="chart-rewards"]')
    chart.locator("canvas").wait_for()
    with tab.page.expect_download() as download:
        chart.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "chart-rewards.csv"
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    series = api(lived, f"routes/digits/series?since={lived.clock() - 900}&until={lived.clock()}&step=10")
    buckets = {bucket["start"]: bucket["variants"]["v2"] for bucket in series["buckets"][:-5]}
    found = 0
    for row in rows:
        bucket = buckets.get(datetime.fromisoformat(row["time"]).timestamp())
        if bucket and row["v2"]:
            mean = bucket["to_date"]["correct"]
            saved = [float(row[name]) for name in ("v2", "v2 low", "v2 high")]
            assert saved == [mean["mean"], *mean["interval"]]
            found += 1
    assert found > 40


def test_something_is_drawn_in_the_colours_of_the_variants(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits/time")
    tab.page.locator('[data-chart="chart-shares"] canvas').wait_for()
    tab.page.wait_for_function(
        """() => {
          const canvas = document.querySelector('[data-chart="chart-shares"] canvas');
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const seen = new Map();
          for (let k = 0; k < data.length; k += 4) {
            if (data[k + 3] < 250) continue;
            const key = [data[k], data[k + 1], data[k + 2]].join();
            seen.set(key, (seen.get(key) ?? 0) + 1);
          }
          // v1's hue, and v2's, which has most of the traffic
          return (seen.get("0,114,178") ?? 0) > 200 && (seen.get("213,94,0") ?? 0) > 20_000;
        }"""
    )


def test_the_moment_that_is_pointed_at_is_told_on_every_chart(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits/time")
    chart = tab.page.locator('[data-chart="chart-rewards"]')
    chart.locator(".u-over").wait_for()
    same = """was => {
        const told = new Set([...document.querySelectorAll(".readout > .note")].map(note => note.innerText));
        return told.size === 1 && !told.has(was);
    }"""
    tab.page.wait_for_function(same)
    latest = tab.page.locator(".readout > .note").first.inner_text()
    chart.locator(".u-over").hover(position={"x": 100, "y": 60})
    tab.page.wait_for_function(same, arg=latest)  # every chart tells the same moment
    assert "n\u00a0=\u00a0" in chart.locator(".readout").inner_text()
    slider = chart.get_by_role("slider")
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    assert "v1" in (slider.get_attribute("aria-valuetext") or "")
    slider.press("Escape")
    tab.page.wait_for_function(
        "was => document.querySelector('.readout > .note').innerText === was", arg=latest
    )
    tab.page.set_viewport_size({"width": 260, "height": 900})
    tab.settled()
    lines = """all => all.map(one => {
        const texts = document.createTreeWalker(one, NodeFilter.SHOW_TEXT);
        while (texts.nextNode().data.trim() !== "v1");
        const range = document.createRange();
        range.selectNodeContents(texts.currentNode);
        return new Set([...range.getClientRects()].map(rect => rect.top)).size;
    })"""
    found = tab.page.locator(".readout li", has_text="v1").evaluate_all(lines)
    assert set(found) == {1}, "a variant's name is broken into letters"


def test_dragging_zooms_and_the_address_keeps_it(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits/time")
    over = tab.page.locator('[data-chart="chart-rewards"] .u-over')
    over.wait_for()
    box = over.bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 50)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=5)
    tab.page.mouse.up()
    tab.page.wait_for_url("**since=*until=*")
    tab.page.reload()
    tab.page.get_by_role("button", name="Back to now").click()
    tab.page.get_by_role("button", name="15 min", pressed=True).wait_for()
    tab.page.go_back()
    tab.page.get_by_role("button", name="Back to now").wait_for()
    tab.page.go_back()
    tab.page.get_by_role("button", name="15 min", pressed=True).wait_for()
    assert tab.page.url.endswith("/routes/digits/time"), "one drag is one step, however many charts there are"


def test_a_rollout_and_its_verdicts_are_shown(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/shop")
    rollout = tab.page.locator("#rollout")
    rollout.wait_for()
    assert "Running" in rollout.inner_text()
    assert rollout.locator("[aria-current=step]").inner_text().startswith("10%")
    errors = tab.page.locator('[data-guardrail="error_rate"]').inner_text()
    assert "fail" in errors
    assert "at most 0.5 pp more" in errors
    assert "+2 pp" in errors
    latency = tab.page.locator('[data-guardrail="latency_p99"]').inner_text()
    assert "can't tell yet" in latency
    assert "about 400 more requests, 12 min at this rate" in latency
    assert "×1.08" in latency
    assert "error_rate" in tab.page.locator(".verdict").inner_text()
    tab.page.get_by_role("link", name="Health").click()
    tab.page.locator("#failures li").first.wait_for()
    assert "connection closed before a response" in tab.page.locator("#failures").inner_text()


def test_the_list_of_routes_leads_to_each(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address)
    tab.page.locator('[data-route="digits"]').wait_for()
    listed = api(lived, "routes")["routes"]
    shown = values(tab)
    for route in listed:
        name = route["route"]
        assert number(shown[f"{name}.recent.assigned"]) == route["recent"]["assigned"]
        for variant, share in route["allocation"].items():
            assert number(shown[f"{name}.allocation.{variant}"]) == share
    tab.page.get_by_role("link", name="shop").click()
    tab.page.locator("h1", has_text="shop").wait_for()
    assert tab.page.title() == "shop · Turnout"
    tab.page.go_back()
    tab.page.locator("h1", has_text="Routes").wait_for()


def test_a_table_is_sorted_by_a_column_and_the_address_keeps_it(lived: Served, tabs: Tabs) -> None:
    page = tabs.new(lived.address, "/-/dashboard/routes/digits").page
    variants = httpx.get(f"{lived.address}/-/routes/digits").json()["variants"]
    rows = page.locator("#variants [data-variant]")
    shown = "all => all.map(one => one.dataset.variant)"
    rows.first.wait_for()
    before = rows.evaluate_all(shown)
    by_requests = sorted(before, key=lambda name: variants[name]["assigned"])
    head = page.locator("#variants th", has_text="Requests")
    for expected, told in ((by_requests[::-1], "descending"), (by_requests, "ascending"), (before, None)):
        head.get_by_role("button").press("Enter")
        assert rows.evaluate_all(shown) == expected
        assert head.get_attribute("aria-sort") == told
    head.get_by_role("button").press("Enter")
    page.reload()
    rows.first.wait_for()
    assert head.get_attribute("aria-sort") == "descending"
    assert rows.evaluate_all(shown) == by_requests[::-1]


def test_a_key_leads_to_the_terms_unless_it_is_typed(lived: Served, tabs: Tabs) -> None:
    page = tabs.new(lived.address).page
    page.get_by_label("Search routes").press_sequentially("wh?")
    assert page.get_by_label("Search routes").input_value() == "wh?"
    page.get_by_label("Search routes").fill("")
    page.locator("h1").click()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Terms and keys").wait_for()
    assert page.url.endswith("/terms")
    assert page.locator("#terms dt").all_inner_texts() == [term for term, _ in glossary.terms()]


def test_terms_say_what_they_mean(lived: Served, tabs: Tabs) -> None:
    page = tabs.new(lived.address, "/-/dashboard/routes/shop").page
    page.locator("#rollout h2 abbr", has_text="Rollout").wait_for()
    meanings = dict(glossary.terms())
    assert page.locator("#rollout h2 abbr").get_attribute("title") == meanings["rollout"]
    assert page.locator("#variants th abbr").first.get_attribute("title") == meanings["variant"]


def test_an_address_without_a_page_says_so_on_a_page(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits/nothing")
    tab.refused = {404}
    tab.page.get_by_role("heading", name="No such page").wait_for()
    tab.page.goto(f"{lived.address}/-/dashboard/routes/%zz")
    tab.page.get_by_role("heading", name="No such route").wait_for()
    url = f"{lived.address}/-/dashboard/nothing"
    assert httpx.get(url).json()["error"]["code"] == "not_found"
    assert (
        httpx.get(f"{url}{'/x' * 9}", headers={"accept": "text/html"}).json()["error"]["code"] == "not_found"
    )
    assert httpx.get(url, headers={"accept": "text/html"}).status_code == 404


def test_thin_data_are_called_thin(served: Served, tabs: Tabs) -> None:
    served.clock.at += 1700
    served.live(DIGITS, steps=1, per_step=16)
    tab = tabs.new(served.address, "/-/dashboard/routes/digits")
    tab.page.locator("#verdict", has_text="Too few rewards to tell").wait_for()
    assert "too few" in tab.page.locator('[data-metric="correct"] [data-row="v1"]').inner_text()
    quiet = tabs.new(served.address, "/-/dashboard/routes/quiet")
    quiet.page.locator("#verdict", has_text="One variant serves everything").wait_for()
    quiet.page.get_by_role("link", name="Over time").click()
    quiet.page.locator('[data-chart="chart-shares"]', has_text="No traffic in this period.").wait_for()
    for page in (tab.page, quiet.page):
        assert "NaN" not in page.locator("main").inner_text()
        assert "undefined" not in page.locator("main").inner_text()


def test_alarms_are_shown(served: Served, tabs: Tabs) -> None:
    alarms = [{"code": "sample_ratio_mismatch", "message": "v1: 10 (expected 500)"}]
    served.do(lambda harness: harness.store.save("alarms", "digits", json.dumps(alarms), expected=0))
    tab = tabs.new(served.address, "/-/dashboard/routes/digits")
    alert = tab.page.get_by_role("alert")
    alert.wait_for()
    assert "expected 500" in alert.inner_text()


def test_alarms_of_the_gateway_as_a_whole_stand_above_the_list(served: Served, tabs: Tabs) -> None:
    alarms = [
        {"code": "engine_silent", "message": "Nodes do not follow their routes: e1 of edge.", "since": 9e8}
    ]
    served.do(lambda harness: harness.store.save("alarms", "", json.dumps(alarms), expected=0))
    alert = tabs.new(served.address).page.get_by_role("alert")
    alert.wait_for()
    assert "e1 of edge" in alert.inner_text()


def test_pictures_show_the_difference_over_time_and_each_mean(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/digits?metric=correct")
    tab.page.locator(".pictures summary").click()
    picture = tab.page.locator('[data-picture="lift"]')
    picture.wait_for()
    found = api(lived, "routes/digits/lift?metric=correct")["variants"]["v2"]
    shown = picture.locator('[data-field="lift.v2"]')
    assert float(shown.get_attribute("data-value") or "nan") == found[-1]["absolute"]
    assert (
        found[-1]["absolute"] == api(lived, "routes/digits")["variants"]["v2"]["lift"]["correct"]["absolute"]
    )
    tab.page.locator('[data-picture="lift"] path.zero').wait_for(state="attached")
    for which in ("lift", "density-correct"):
        ticks = tab.page.locator(
            f'[data-picture="{which}"] .{"heights" if which == "lift" else "ticks"} span'
        )
        numbers = [float(t.replace("−", "-").rstrip("% p")) for t in ticks.all_inner_texts()]
        steps = {round(b - a, 6) for a, b in itertools.pairwise(numbers)}
        assert len(numbers) >= 2
        assert len(steps) == 1, (which, numbers)
    tab.page.locator(".pictures").get_by_role("button", name="latency_p50").click()
    tab.page.locator('[data-picture="lift"]', has_text="latency_p50: difference").wait_for()
    assert "metric=latency_p50" in tab.page.url


def test_the_limit_of_a_guardrail_is_drawn_over_the_difference(lived: Served, tabs: Tabs) -> None:
    tab = tabs.new(lived.address, "/-/dashboard/routes/shop?metric=error_rate")
    tab.page.locator(".pictures summary").click()
    tab.page.locator('[data-picture="lift"] path.limit').wait_for(state="attached")
