"""One page tells one story: figures that do not belong together do not stand for each other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import Tabs
from tests.browser.serving import Served
from tests.browser.test_dashboard_overview import GATE, rollout, row
from tests.browser.test_dashboard_truth import CONFIG, around, rewarding

pytestmark = pytest.mark.browser

MOVED = "Shares moved: a difference compares the same times, so it may differ from that of the means."


def lifts(served: Served, route: str, variant: str) -> dict[str, Any]:
    report = httpx.get(f"{served.address}/-/routes/{route}").json()
    found: dict[str, Any] = report["variants"][variant]["lift"]
    return found


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[Served]:
    """A split, whose shares never move."""
    found = Served(tmp_path / "turnout.db", text=CONFIG, start=time.time() - 30).start()
    values = {"v1": {"rating": around(1.0)}, "v2": {"rating": around(1.1)}}
    found.do(rewarding("translate", values, 60))
    yield found
    found.stop()


def test_where_shares_moved_no_posterior_of_the_means_stands_for_the_difference(
    lived: Served, tabs: Tabs
) -> None:
    """The one was +0.19, the other lay around −0.1."""
    assert lifts(lived, "digits", "v2")["correct"]["method"] == "weighted"
    page = tabs.new(lived.address, "/-/dashboard/routes/digits").page
    page.locator("#scorecard", has_text=MOVED).wait_for()
    page.locator(".pictures summary").click()
    page.locator('[data-picture="density-correct"]').wait_for()
    page.locator('[data-picture="lift"]').wait_for()
    assert page.locator('[data-picture="difference-correct"]').count() == 0


def test_where_shares_are_fixed_both_are_of_the_same_means(fixed: Served, tabs: Tabs) -> None:
    assert lifts(fixed, "translate", "v2")["rating"]["method"] == "pooled"
    page = tabs.new(fixed.address, "/-/dashboard/routes/translate").page
    page.locator(".pictures summary").click()
    page.locator('[data-picture="difference-rating"]').wait_for()
    assert MOVED not in page.locator("#scorecard").inner_text()


def test_a_ratio_has_its_interval_or_is_not_shown(fixed: Served, tabs: Tabs) -> None:
    """×87 stood next to 0.1% and 0.2%."""
    found = lifts(fixed, "translate", "v2")
    assert found["rating"]["relative_interval"] is not None
    page = tabs.new(fixed.address, "/-/dashboard/routes/translate").page
    cell = page.locator('[data-metric="rating"] [data-row="v2"] .estimate').last
    cell.wait_for()
    low, high = (f"{'+' if end >= 0 else '−'}" for end in found["rating"]["relative_interval"])
    told = cell.inner_text()
    assert f"% ({low}" in told
    assert f" to {high}" in told
    for metric, lift in found.items():
        if lift["relative_interval"] is None:
            text = page.locator(f'[data-metric="{metric}"] [data-row="v2"] .estimate').last.inner_text()
            assert "×" not in text
            assert "%" not in text


def test_a_gate_at_which_a_rollout_ended_is_not_under_way(served: Served, tabs: Tabs) -> None:
    failed = {**GATE, "verdict": "fail", "estimate": 0.9, "interval": [0.85, 0.95]}
    served.set_rollout("shop", rollout("rolled_back", "shadow", stage=-1, weight=0.0, verdicts=[failed]))
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator("#rollout .failed", has_text="ended here").wait_for()
    assert page.locator("#rollout [aria-current=step], #rollout .now").count() == 0


@pytest.mark.parametrize("phase", ["canary", "bandit"])
def test_a_rollout_that_ended_in_its_bake_ended_after_its_stages(
    served: Served, tabs: Tabs, phase: str
) -> None:
    step = {
        "source": "promoted",
        "target": "rolled_back",
        "reason": "errors",
        "actor": "",
        "stage": 1,
        "weight": 0.0,
    }
    served.do(lambda h: h.emit("rollout", "shop", step))
    served.set_rollout("shop", rollout("rolled_back", phase, stage=1, weight=0.0))
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator("#rollout .failed", has_text="promoted, ended here").wait_for()
    assert page.locator("#rollout .failed").count() == 1


def test_a_comparison_that_is_not_to_be_trusted_passes_nothing(served: Served, tabs: Tabs) -> None:
    doubted = {
        **GATE,
        "metric": "error_rate",
        "verdict": "error",
        "reason": "record_loss: 7 outcomes were not recorded",
    }
    served.set_rollout(
        "shop", rollout("paused", "canary", verdicts=[doubted], reason="error_rate: record_loss")
    )
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator(".verdict .note", has_text="No verdict on error_rate: record_loss: 7 outcomes").wait_for()


def test_a_rollout_that_paused_by_itself_needs_a_person(served: Served, tabs: Tabs) -> None:
    reason = "correct is still inconclusive after 1 d"
    served.set_rollout("shop", rollout("paused", "canary", reason=reason))
    step = {"source": "running", "target": "paused", "reason": reason, "actor": "", "stage": 0, "weight": 0.1}
    served.do(lambda h: h.emit("rollout", "shop", step))
    told = row(tabs, served, "shop").inner_text()
    assert f"Paused: {reason}. Resume it or roll it back." in told
    served.do(lambda h: h.emit("rollout", "shop", step | {"actor": "ops"}))
    group = tabs.new(served.address).page.locator('[data-group="moving"] [data-route="shop"]')
    group.wait_for()
    served.set_rollout("shop", rollout("paused", "canary", reason="pause: a campaign"))
    page = tabs.new(served.address, "/-/dashboard/routes/shop").page
    page.locator("#rollout").get_by_text("a campaign", exact=True).wait_for()


def test_the_command_of_a_route_without_requests_is_that_of_this_very_route(
    served: Served, tabs: Tabs
) -> None:
    page = tabs.new(served.address, "/-/dashboard/routes/quiet").page
    page.locator("#start .command").wait_for()
    command = page.locator("#start .command").inner_text()
    assert command == f"curl {served.address}/v2/models/quiet --json '{{}}'"


def test_the_labels_of_a_picture_do_not_lie_on_each_other_on_a_phone(lived: Served, tabs: Tabs) -> None:
    page = tabs.new(lived.address, "/-/dashboard/routes/shop", width=320).page
    page.locator(".pictures summary").click()
    page.locator('[data-picture="quantiles"]').wait_for()
    ends = page.locator('[data-picture="quantiles"] .ticks span').evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])"
    )
    assert len(ends) >= 2
    assert all(left > right for (_, right), (left, _) in itertools.pairwise(ends))
