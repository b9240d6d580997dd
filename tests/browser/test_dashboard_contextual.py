"""Features on the page: a bandit with them, without a winner for all, and a split that is compared by segment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.compile.plans import segment_features
from gateway.loops.guardrail_verdicts import keep
from gateway.record.context import pack, pack_values
from policies.contextual.bandit import Contextual
from policies.contextual.features import encode, fingerprint
from policies.rollout.guardrails import Judgement
from policies.rollout.verdicts import Verdict
from tests.browser.conftest import Tabs
from tests.browser.serving import Served
from tests.support.harness import Harness
from tests.support.made import outcome, reward

pytestmark = pytest.mark.browser

CONFIG = """\
metrics: {correct: {type: boolean}, stars: {type: real, minimum: 0, maximum: 5}}
backends: {a: {url: "http://127.0.0.1:9101"}}
routes:
  seen:
    match: {path: /seen}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy:
      type: bandit
      algorithm: linear
      metric: correct
      features: {tier: {header: x-tier, values: [free, paid]}, age: {json: age, maximum: 100}}
  guarded:
    match: {path: /guarded}
    variants: {v1: {backend: a}, v2: {backend: a}, v3: {backend: a}}
    policy:
      type: bandit
      metric: correct
      baseline: v1
      guardrails: [{metric: error_rate, max_increase: 2%}, {metric: stars, max_decrease: 1}]
  parts:
    match: {path: /parts}
    variants: {old: {backend: a}, new: {backend: a}}
    policy: {type: split, weights: {old: 1, new: 1}}
    segments:
      tier: {header: x-tier, values: [free, paid]}
      a-long-name-of-a-country: {json: land, values: [de, "<b>"]}
"""


@pytest.fixture
def contextual(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "turnout.db", text=CONFIG).start()
    yield found
    found.stop()


async def teach(harness: Harness) -> None:
    """v1 is right for free users, v2 for paid ones."""
    plan = harness.allocations.held["seen"].plan
    assert isinstance(plan, Contextual)
    outcomes, rewards = [], []
    for k in range(400):
        raw = {"tier": ("free", "paid")[k % 2], "age": k % 100}
        name = ("v1", "v2")[k // 2 % 2]
        about = outcome(harness.now() - 5, route="seen", assigned=name, served=name, features=json.dumps(raw))
        context = pack(fingerprint(plan.features), encode(plan.features, raw)).hex()
        outcomes.append(about)
        rewards.append(reward(float((name == "v1") == (raw["tier"] == "free")), of=about, context=context))
    await harness.store.append(outcomes)
    await harness.store.reward(rewards)
    await harness.allocations.step()


def test_before_and_after_it_has_learned(contextual: Served, tabs: Tabs) -> None:
    tab = tabs.new(contextual.address, "/-/dashboard/routes/seen")
    tab.page.locator("#verdict", has_text="Nothing learned yet").wait_for()
    assert tab.page.locator("[data-column]").count() == 0
    contextual.do(teach)
    tab.page.locator("#verdict", has_text="Which variant is best depends on the request").wait_for()
    at = f"{contextual.address}/-/routes/seen"
    tab.page.locator("#learned").wait_for()
    report = httpx.get(at).json()
    over_time = httpx.get(f"{at}/lift?metric=correct").json()["variants"]["v2"]
    assert over_time[-1]["absolute"] == report["variants"]["v2"]["lift"]["correct"]["absolute"]
    pictures = httpx.get(f"{at}/distributions").json()
    assert list(pictures["densities"]) == ["correct"]
    assert pictures["differences"] == {}, "of means over different requests"
    health = tab.page.locator("[data-metric=error_rate] [data-row=v2] .estimate").last
    assert health.inner_text() == "not compared: each request's features decide its variant"
    columns = ["constant", "tier=free", "tier=paid", "age", "age missing"]
    assert tab.page.locator("[data-column]").evaluate_all("n => n.map(x => x.dataset.column)") == columns
    for variant, coefficients in report["contextual"]["coefficients"].items():
        for column, found in coefficients.items():
            shown = tab.page.locator(f'[data-field="contextual.{variant}.{column}"]')
            assert float(shown.get_attribute("data-value") or "nan") == found["mean"]
    segments = report["contextual"]["segments"]
    named = [(one["feature"] and f"{one['feature']}: {one['value']}") or "All requests" for one in segments]
    assert tab.page.locator("[data-segment]").evaluate_all("n => n.map(x => x.dataset.segment)") == named
    for one in segments:
        expected = {f"means.{name}": found["mean"] for name, found in one["means"].items()}
        expected |= {f"differences.{name}": found["absolute"] for name, found in one["differences"].items()}
        for rest, value in expected.items():
            field = f"contextual.segments.{one['feature']}.{one['value']}.{rest}"
            shown = tab.page.locator(f'[data-field="{field}"]')
            assert float(shown.get_attribute("data-value") or "nan") == value
    paid = tab.page.locator('[data-segment="tier: paid"] [data-row="v2"]').inner_text()
    assert re.search(r"\+\d+ pp", paid), "in the unit of the metric"
    ends = tab.page.locator("#segments .estimate-text small").all_inner_texts()
    assert max(int(end) for text in ends for end in re.findall(r"\d+", text)) <= 100, "no share is above 100%"
    words = tab.page.locator("main").inner_text()
    assert "NaN" not in words
    assert "undefined" not in words
    tab.page.get_by_role("link", name="Routes").click()
    row = tab.page.locator('[data-route="seen"]')
    row.wait_for()
    assert "Which variant is best depends on tier, age." in row.inner_text()


async def use(harness: Harness) -> None:
    """``new`` is right for free users, ``old`` for paid ones; nobody is in another tier."""
    features = segment_features(harness.document().routes["parts"])
    outcomes, rewards = [], []
    for k in range(400):
        name, raw = ("old", "new")[k % 2], (("free", "paid")[k // 2 % 2], ("de", "<b>", None)[k % 3])
        raw_json = json.dumps({f.name: value for f, value in zip(features, raw, strict=True)})
        about = outcome(
            harness.now() - 5, route="parts", assigned=name, served=name, sticky=False, features=raw_json
        )
        context = pack_values([f.segments[value] for f, value in zip(features, raw, strict=True)]).hex()
        right = (name == "new") == (raw[0] == "free") and k % 10 > 1
        outcomes.append(about)
        rewards.append(reward(float(right), of=about, context=context))
        rewards.append(reward(float(k // 8 % 6), of=about, metric="stars", context=context))
    await harness.store.append(outcomes)
    await harness.store.reward(rewards)


def test_a_split_by_segment(contextual: Served, tabs: Tabs) -> None:
    """Every figure is the API's, what is shown is said, and a narrow page does not scroll sideways."""
    tab = tabs.new(contextual.address, "/-/dashboard/routes/parts", width=320)
    tab.page.get_by_text("No requests by tier or a-long-name-of-a-country yet.").wait_for()
    contextual.do(use)
    tab.page.reload()
    said = tab.page.locator("#segments .said")
    said.wait_for()
    assert said.inner_text() == "new is better where tier is free; new is worse where tier is paid."
    segments = httpx.get(f"{contextual.address}/-/routes/parts/segments").json()["segments"]
    for one in segments:
        at = f"segments.{one['feature']}.{'null' if one['value'] is None else one['value']}.variants"
        for name, variant in one["variants"].items():
            found = variant["rewards"]["correct"]
            known = {
                f"{name}.rewards.correct.{key}": found[key] for key in ("mean", "count") if found["count"]
            }
            if "correct" in variant["lift"]:
                known[f"{name}.lift.correct.absolute"] = variant["lift"]["correct"]["absolute"]
            for rest, value in known.items():
                shown = tab.page.locator(f"[data-field='{at}.{rest}']").get_attribute("data-value")
                assert float(shown or "nan") == value
    assert "No rewards yet where tier is anything else." in tab.page.locator("#segments").inner_text()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320
    tab.page.locator("#segments").get_by_role("button", name="stars").click()
    tab.page.get_by_text("No difference is shown in any segment yet.").wait_for()
    assert "metric=stars" in tab.page.url
    tab.page.locator("#segments").get_by_role("button", name="latency_p50").click()
    tab.page.locator("#segments", has_text="requests, since").wait_for()
    compared = 0
    for one in httpx.get(f"{contextual.address}/-/routes/parts/segments").json()["segments"]:
        at = f"segments.{one['feature']}.{'null' if one['value'] is None else one['value']}.variants"
        for name, variant in one["variants"].items():
            if variant["latest"]["latency_ms"] is not None:
                field = f"[data-field='{at}.{name}.latency_ms.p50']"
                shown = tab.page.locator(field).get_attribute("data-value")
                assert float(shown or "nan") == variant["latest"]["latency_ms"]["p50"]
                compared += 1
    assert compared
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320


def test_what_guardrails_of_a_bandit_say_of_each_variant(contextual: Served, tabs: Tabs) -> None:
    said = {
        "v2": Verdict("error_rate", "pass", "max_increase", 0.02, 0.01, 0.001, (-0.01, 0.015), samples=900),
        "v3": Verdict("error_rate", "fail", "max_increase", 0.02, 0.01, 0.09, (0.05, 0.13), samples=120),
    }
    judgements = {variant: Judgement((verdict,)) for variant, verdict in said.items()}

    async def judge(harness: Harness) -> None:
        await keep(harness.store, "guarded", judgements, {"v3"})

    contextual.do(judge)
    tab = tabs.new(contextual.address, "/-/dashboard/routes/guarded", width=320)
    shown = tab.page.locator("[data-guardrail=error_rate] .guardrail")
    shown.first.wait_for()
    assert shown.evaluate_all("n => n.map(x => x.dataset.variant)") == ["v2", "v3"]
    first, second = shown.all_inner_texts()
    assert "pass" in first
    assert "v2: Guardrail: at most 2 pp more; it is ±0 pp (−1 to +2)." in first
    assert "fail" in second
    assert "120 samples" in second
    report = httpx.get(f"{contextual.address}/-/routes/guarded").json()
    assert [(one["variant"], one["verdict"]) for one in report["guardrails"]] == [
        ("v2", "pass"),
        ("v3", "fail"),
    ]
    assert httpx.get(f"{contextual.address}/-/routes/seen").json()["guardrails"] is None
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320
