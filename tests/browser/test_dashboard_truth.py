"""What the dashboard once said that was not so (T1 to T10 of the faults list), each on a page that would say it."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Tabs
from tests.browser.serving import Served
from tests.support.harness import Harness
from tests.support.made import outcome, reward
from tests.support.seed import World, live_through

pytestmark = pytest.mark.browser

CONFIG = """\
metrics:
  rating: {type: real}
  cost: {type: real, goal: minimize}
  click: {type: boolean}
backends: {a: {url: "http://127.0.0.1:9101"}, b: {url: "http://127.0.0.1:9102"}}
routes:
  sizes:
    match: {path: /sizes}
    variants: {small: {backend: a}, medium: {backend: a}, large: {backend: a}, huge: {backend: a}}
    policy: {type: split, weights: {small: 25%, medium: 25%, large: 25%, huge: 25%}}
  translate:
    match: {path: /translate}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: split, weights: {v1: 50%, v2: 50%}}
  legacy:
    match: {path: /legacy}
    variants: {old: {backend: a}, new: {backend: b}}
    policy: {type: split, weights: {old: 50%, new: 50%}}
  fraud:
    match: {path: /fraud}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 10%, for: 10m}]
      guardrails: [{metric: error_rate, max_increase: 1%}]
  plain:
    match: {path: /plain}
    variants: {only: {backend: a}}
    policy: {type: single, variant: only}
"""
numbers = itertools.count(1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "turnout.db", text=CONFIG, start=time.time() - 30).start()
    yield found
    found.stop()


def rewarding(
    route: str, values: dict[str, dict[str, Callable[[np.random.Generator], float]]], each: int
) -> Any:
    """Gives each variant ``each`` requests with a value of each metric."""

    async def work(harness: Harness) -> None:
        rng = np.random.default_rng(5)
        outcomes, rewards = [], []
        for variant, metrics in values.items():
            for _ in range(each):
                about = outcome(
                    harness.now() - 5, route=route, assigned=variant, served=variant, unit=next(numbers)
                )
                outcomes.append(about)
                rewards += [reward(draw(rng), of=about, metric=metric) for metric, draw in metrics.items()]
        await harness.store.append(outcomes)
        await harness.store.reward(rewards)

    return work


def around(mean: float) -> Callable[[np.random.Generator], float]:
    return lambda rng: float(rng.normal(mean, 0.3))


def test_t1_the_overview_says_which_routes_need_a_person(world: Served, tabs: Tabs) -> None:
    alarms = [{"code": "no_rewards", "message": "No reward was ever reported for v2; check your clients."}]
    world.do(lambda h: h.store.save("alarms", "translate", json.dumps(alarms), expected=0))
    tab = tabs.new(world.address)
    tab.page.locator('[data-group="needs"] [data-route="translate"]').wait_for()
    assert "No reward was ever reported" in tab.page.locator('[data-route="translate"]').inner_text()
    assert tab.page.locator('[data-group="needs"] [data-route]').count() == 1
    assert tab.page.title().startswith("(1) ")


def test_t2_a_dead_backend_is_not_healthy(world: Served, tabs: Tabs) -> None:
    failing = {"attempts": 1393, "error": "backend_connect", "since": time.time() - 600}
    dead = {
        "address": "http://127.0.0.1:9102",
        "state": "failing",
        "failing": failing,
        "in_flight": 0,
        "waiting": 0,
    }
    well = {
        "address": "http://127.0.0.1:9101",
        "state": "healthy",
        "failing": None,
        "in_flight": 0,
        "waiting": 0,
    }
    world.harness.health["legacy"] = {"old": [well], "new": [dead]}
    tab = tabs.new(world.address, "/-/dashboard/routes/legacy")
    tab.page.locator("#verdict", has_text="new does not serve").wait_for()
    assert "Unreachable: each attempt since" in tab.page.locator(".verdict").inner_text()
    tab.page.get_by_role("link", name="Health").click()
    row = tab.page.locator("#health tr", has_text="9102")
    row.wait_for()
    assert "Failing" in row.inner_text()
    assert "the last 1,393 attempts failed, the last one: unreachable" in row.inner_text()
    listed = tabs.new(world.address)
    reason = listed.page.locator(
        '[data-route="legacy"] .problem', has_text="new does not serve. Unreachable: each attempt since"
    )
    box = "one => [one.clientWidth, one.closest('.route-row').clientHeight]"
    width, height = reason.evaluate(box)
    assert width > 600, "what needs a person has the width of two columns more"
    assert height < 72, "so that 20 routes fit one screen"
    listed.page.locator('[data-group="needs"] [data-route="legacy"]').wait_for()


def test_health_says_which_check_fails_what_to_do_and_which_errors_are_frequent(
    world: Served, tabs: Tabs
) -> None:
    alarms = [
        {"code": "no_rewards", "message": "No reward was ever reported for v2.", "since": time.time() - 600}
    ]

    async def fails(harness: Harness) -> None:
        await harness.store.save("alarms", "translate", json.dumps(alarms), expected=0)
        await harness.store.append(
            [
                outcome(
                    harness.now() - n,
                    route="translate",
                    assigned="v2",
                    served="",
                    unit=next(numbers),
                    status=502,
                    error=error,
                )
                for n, error in enumerate(["backend_connect"] * 3 + ["backend_timeout"], start=1)
            ]
        )

    world.do(fails)
    tab = tabs.new(world.address, "/-/dashboard/routes/translate/health")
    failing = tab.page.locator('[data-check="no_rewards"][data-value="alarm"]')
    failing.wait_for()
    assert "No reward was ever reported for v2." in failing.inner_text()
    assert "decision id" in failing.inner_text()
    assert "Since 10 min ago" in failing.inner_text()
    assert tab.page.locator('[data-check][data-value="ok"]').count() == 4
    kinds = tab.page.locator("#failures p", has_text="Of the last 4")
    kinds.wait_for()
    assert re.search(r"v2: .*×3, v2: .*×1\.", kinds.inner_text())


def test_t3_a_rollback_shows_what_decided_until_the_next_run(world: Served, tabs: Tabs) -> None:
    fresh = {
        "metric": "error_rate",
        "verdict": "inconclusive",
        "bound": "max_increase",
        "limit": 0.01,
        "samples": 0,
    }
    decided = fresh | {"verdict": "fail", "estimate": 0.066, "interval": [0.0114, 0.1534], "samples": 122}
    state = {
        "state": "rolled_back",
        "phase": "canary",
        "stage": 0,
        "stages": 1,
        "weight": 0.0,
        "verdicts": [decided],
    }
    world.set_rollout("fraud", state)
    step = {
        "source": "running", "target": "rolled_back", "reason": "error_rate breaches its limit", "actor": "",
        "evidence": [decided], "stage": 0, "weight": 0.0,
    }  # fmt: skip
    world.do(lambda h: h.emit("rollout", "fraud", step))
    tab = tabs.new(world.address, "/-/dashboard/routes/fraud")
    tab.page.locator("#verdict", has_text="Rolled back").wait_for()
    summary = tab.page.locator(".verdict").inner_text()
    assert "Too early" not in summary
    assert "What decided: error_rate +7 pp (limit +1 pp)" in summary
    assert "can't tell yet" not in tab.page.locator("#scorecard").inner_text()
    assert "✕ fail" in tab.page.locator('[data-guardrail="error_rate"]').inner_text()
    assert tab.page.locator("[aria-current=step]").count() == 0, "no stage runs"
    world.set_rollout(
        "fraud", state | {"state": "running", "weight": 0.1, "stage_ends": 1.0, "verdicts": [fresh]}
    )
    again = {
        "source": "rolled_back",
        "target": "running",
        "reason": "resumed",
        "actor": "ops",
        "stage": 0,
        "weight": 0.1,
    }
    world.do(lambda h: h.emit("rollout", "fraud", again))
    tab.page.locator('[data-guardrail="error_rate"]', has_text="can't tell yet").wait_for()
    tab.page.locator("#rollout", has_text="time is over, waiting for a verdict on error_rate").wait_for()


def test_t4_several_metrics_have_no_winner_until_somebody_weighs_them(world: Served, tabs: Tabs) -> None:
    rating = {"small": 3.0, "medium": 3.2, "large": 3.4, "huge": 4.4}
    cost = {"small": 1.0, "medium": 1.5, "large": 2.0, "huge": 8.0}
    values = {v: {"rating": around(rating[v]), "cost": around(cost[v])} for v in rating}
    values["small"]["cost"] = lambda rng: 1.0
    world.do(rewarding("sizes", values, 400))
    tab = tabs.new(world.address, "/-/dashboard/routes/sizes")
    verdict = tab.page.locator("#verdict", has_text="huge is best in rating")
    verdict.wait_for()
    assert "huge is worst in cost" in verdict.inner_text()
    assert "tone-good" not in (tab.page.locator(".verdict").get_attribute("class") or "")
    assert "probability" not in tab.page.locator(".verdict").inner_text()
    assert "all the same: no interval" in tab.page.locator("[data-metric=cost] [data-row=small]").inner_text()
    losses = tab.page.locator('[data-field$="expected_loss"]').all_inner_texts()
    assert losses
    assert all(len(re.sub(r"\D", "", text).lstrip("0")) <= 3 for text in losses), losses


def test_t5_the_headline_rests_on_the_interval_and_not_on_p_best(world: Served, tabs: Tabs) -> None:
    """P(best) is above 95 %, and the always-valid interval of the difference holds zero."""

    async def chance(harness: Harness) -> None:
        made = {"v1": (200, 150), "v2": (200, 166)}
        for variant, (n, yes) in made.items():
            fields = {"route": "translate", "assigned": variant, "served": variant}
            about = [outcome(harness.now() - 5, unit=next(numbers), **fields) for _ in range(n)]
            await harness.store.append(about)
            await harness.store.reward(
                [reward(float(k < yes), of=o, metric="click") for k, o in enumerate(about)]
            )

    world.do(chance)
    report = httpx.get(f"{world.address}/-/routes/translate").json()
    assert report["variants"]["v2"]["probability_best"] > 0.95
    low, high = report["standings"]["click"]["difference"]["interval"]
    assert low < 0 < high
    tab = tabs.new(world.address, "/-/dashboard/routes/translate")
    tab.page.locator("#verdict", has_text="No difference is shown in click yet").wait_for()
    assert "tone-good" not in (tab.page.locator(".verdict").get_attribute("class") or "")
    assert "always valid" in tab.page.locator(".verdict").inner_text()


def test_t6_an_error_that_the_client_got_is_said_to_be_one(world: Served, tabs: Tabs) -> None:
    async def fail(harness: Harness) -> None:
        one = outcome(harness.now() - 5, route="plain", assigned="only", served="only", unit=1)
        await harness.store.append([one._replace(status=500, error="backend_status", fallback=False)])

    world.do(fail)
    tab = tabs.new(world.address, "/-/dashboard/routes/plain/health")
    row = tab.page.locator("#failures li")
    row.wait_for()
    assert "all the same" not in row.inner_text()
    assert "the client got the 500" in row.inner_text()


def test_t7_ticks_have_the_digits_that_their_step_needs(world: Served, tabs: Tabs) -> None:
    for share in (0.002, 0.004):
        wanted = World("translate", {}, {}, {"v1": share, "v2": share}, metric=None)
        world.do(partial(live_through, world=wanted, steps=2, per_step=2000, step=5.0))
    tab = tabs.new(world.address, "/-/dashboard/routes/translate/time")
    tab.page.add_init_script(SPY)
    tab.page.reload()
    tab.page.locator('[data-chart="chart-errors"] canvas').wait_for()
    tab.page.wait_for_function("new Set(window.drawn.filter(text => text.endsWith('%'))).size >= 3")
    tab.settled()
    ticks = sorted(
        {
            float(t[:-1])
            for t in tab.page.evaluate("window.drawn")
            if re.fullmatch(r"[\d.]+%", t) and float(t[:-1]) < 20
        }
    )
    steps = {round(b - a, 6) for a, b in itertools.pairwise(ticks)}
    assert len(ticks) >= 3
    assert len(steps) == 1, f"even distances on the axis, uneven numbers: {ticks}"


SPY = """
window.drawn = [];
const fill = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  if (this.canvas.closest("[data-chart=chart-errors]")) window.drawn.push(String(text));
  return fill.call(this, text, ...rest);
};
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_t8_hues_stay_apart_for_colour_blind_eyes_and_letters_say_the_same(
    world: Served, tabs: Tabs, scheme: str
) -> None:
    tab = tabs.new(world.address, "/-/dashboard/routes/sizes", color_scheme=scheme)
    tab.page.locator(".swatch").first.wait_for()
    hues = tab.page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          return [...Array(8).keys()].map(k => style.getPropertyValue(`--hue-${k}`).trim());
        }"""
    )
    for kind in MACHADO:
        seen = [lab(MACHADO[kind] @ linear(hue)) for hue in hues]
        apart = {
            (a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(range(8), 2)
        }
        first = {pair: d for pair, d in apart.items() if max(pair) < 4}
        assert min(first.values()) >= 17, (kind, first)
        assert min(apart.values()) >= 13, (kind, min(apart, key=apart.__getitem__))
    letters = tab.page.locator("#variants [data-variant] .swatch").all_inner_texts()
    assert letters == ["A", "B", "C", "D"]


MACHADO = {
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
"""Of linear RGB, at full severity (Machado, Oliveira & Fernandes 2009)."""


def linear(hue: str) -> np.ndarray:
    rgb = np.array([int(hue[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        rgb, 0, 1
    )
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_t9_a_p99_comes_with_its_interval_and_count_or_not_at_all(world: Served, tabs: Tabs) -> None:
    world.do(lambda h: live_through(h, World("translate", {}, metric=None), steps=2, per_step=50, step=10.0))
    tab = tabs.new(world.address, "/-/dashboard/routes/translate/time?quantile=p99")
    chart = tab.page.locator('[data-chart="chart-latency"]')
    chart.locator(".empty", has_text="Too few requests").wait_for()
    assert chart.locator("canvas").count() == 0
    tab.page.get_by_role("button", name="p50").click()
    chart.locator("canvas").wait_for()
    for said in chart.locator(".said").all_inner_texts():
        assert re.search(r"ms \(.* – .*\), n\xa0=\xa0\d+", said), said
    tab.page.goto(world.address + "/-/dashboard/routes/translate")
    row = tab.page.locator('[data-metric="latency_p99"] [data-row="v1"]')
    row.wait_for()
    assert "too few to tell" in row.inner_text()
    assert "n " in row.inner_text()


def test_t10_nothing_of_other_routes_looks_like_news(world: Served, tabs: Tabs) -> None:
    for backend in ("a", "b"):
        data = {
            "backend": backend,
            "address": f"http://{backend}",
            "state": "unhealthy",
            "reason": "its probes fail",
        }
        world.do(partial(Harness.emit, kind="health", route="", data=data))
    tab = tabs.new(world.address, "/-/dashboard/routes/plain/health")
    tab.page.locator("#events", has_text="http://a").wait_for()
    assert "http://b" not in tab.page.locator("#events").inner_text()
    assert "In flight, all routes" in tab.page.locator("#health").inner_text()
    tab.page.get_by_role("link", name="Decide").click()
    tab.page.locator("#verdict").wait_for()
    assert "rating" not in tab.page.locator(".verdict").inner_text()


def test_a_busy_bandit_hides_no_other_event(world: Served, tabs: Tabs) -> None:
    async def busy(harness: Harness) -> None:
        await harness.emit("health", "", {"backend": "a", "address": "http://a", "state": "unhealthy"})
        for k in range(1100):
            data = json.dumps({"allocation": {"v1": k / 1100}, "reason": "posterior"})
            await harness.store.add_event(
                time=harness.clock(), kind="allocation", route="translate", data=data
            )

    world.do(busy)
    listed = httpx.get(f"{world.address}/-/events/recent?limit=5&allocations=false").json()["events"]
    assert [one["kind"] for one in listed] == ["health"]
    newest = httpx.get(f"{world.address}/-/events/recent?limit=5").json()["events"]
    assert [one["kind"] for one in newest] == ["allocation"] * 5
    tab = tabs.new(world.address, "/-/dashboard/events")
    tab.page.locator("#events", has_text="http://a").wait_for()
    for k in range(30):
        data = {"allocation": {"v1": k / 30}, "reason": "posterior"}
        for route in ("translate", "plain"):
            world.do(partial(Harness.emit, kind="allocation", route=route, data=data))
    expect(tab.page.locator("#events li", has_text="10 changes, the last:")).to_have_count(2)
    assert "http://a" in tab.page.locator("#events").inner_text()


def test_a_moment_between_holes_is_drawn_as_a_point(world: Served, tabs: Tabs) -> None:
    """A line leads from point to point; the only bucket with enough requests had a letter, and nothing else."""

    async def once(harness: Harness) -> None:
        fields = {"route": "plain", "assigned": "only", "served": "only", "total_ms": 8.0}
        await harness.store.append(
            [outcome(harness.now() - 200, unit=next(numbers), **fields) for _ in range(40)]
        )
        await harness.store.append([outcome(harness.now() - 60, unit=next(numbers), **fields)])

    world.do(once)
    tab = tabs.new(world.address, "/-/dashboard/routes/plain/time?quantile=p50")
    tab.page.locator('[data-chart="chart-latency"] canvas').wait_for()
    tab.page.wait_for_function(
        """() => {
          const canvas = document.querySelector("[data-chart=chart-latency] canvas");
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let seen = 0;
          for (let k = 0; k < data.length; k += 4) seen += data[k] === 0 && data[k + 1] === 114 && data[k + 2] === 178;
          return seen > 4;
        }"""
    )
