"""Differences that are adjusted by a covariate: against least squares on the values themselves."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gateway.cli import main
from gateway.config.service import MetricConfig
from gateway.control.reports.lift import Comparisons
from gateway.control.reports.lift_over_time import lift_over_time
from gateway.control.reports.observed import Observed
from gateway.ingest.evidence import Rewarded, RewardedBucket
from gateway.record.context import pack_values
from gateway.state.base import Counts
from gateway.state.sqlite import SqliteStore
from policies.contextual.features import GRID, Covariate
from policies.types import PairSums, RewardSums
from tests.control.conftest import Client
from tests.control.test_plan_command import CONFIG, planned
from tests.support.harness import Harness
from tests.support.made import outcome, reward

Floats = npt.NDArray[np.float64]
CART = Covariate("cart", 0, 100)
COVARIATE = "covariates: {cart: {header: x-cart, maximum: 100}}"
DECLARED = {"spend": MetricConfig.model_validate({"type": "real", "adjust": "cart"})}


def place(cart: float) -> float:
    """The covariate as sums have it."""
    return round((min(cart, 100) / 50 - 1) * GRID) / GRID


def slope_of(y: Floats, candidate: Floats, x: Floats, known: npt.NDArray[np.bool_], w: Floats) -> float:
    """The candidate's coefficient in the weighted regression on it and the covariate, which some lack."""
    z = np.where(known, x - np.average(x[known], weights=w[known]), 0.0)
    root = np.sqrt(w)
    design = np.column_stack([np.ones(len(y)), candidate, z]) * root[:, None]
    return float(np.linalg.lstsq(design, y * root, rcond=None)[0][1])


async def live(harness: Harness, requests: int) -> list[tuple[float, float, float | None]]:
    """Requests of a route whose amounts depend on the cart, which some do not send: candidate, amount, cart."""
    rng, made = np.random.default_rng(5), []
    now, status = harness.now(), harness.route_status("shop")
    assert status is not None
    outcomes, rewards = [], []
    for _ in range(requests):
        new = bool(rng.random() < 0.3)
        variant = "new" if new else "old"
        about = outcome(
            now - 5, route="shop", assigned=variant, served=variant, epoch=status.epoch, sticky=False
        )
        cart = None if rng.random() < 0.2 else float(rng.gamma(2, 20))
        amount = (cart or 30.0) + new + float(rng.normal(0, 5))
        covariates = [] if cart is None else [(CART.id, place(cart))]
        outcomes.append(about)
        rewards.append(reward(amount, of=about, metric="delay", context=pack_values([], covariates).hex()))
        made.append((float(new), amount, cart))
    await harness.store.append(outcomes)
    await harness.store.reward(rewards)
    return made


async def put(harness: Harness, client: Client, adjust: str) -> None:
    text = harness.revision().document.replace("  shop:\n", f"  shop:\n    {COVARIATE}\n", 1)
    text = text.replace("delay: {type: real", f"delay: {{{adjust}type: real")
    etag = harness.revision().etag
    changed = await client("ops").put("/-/config", content=text, headers={"if-match": etag})
    assert changed.status_code == 200, changed.text
    await harness.allocations.step()


async def read(client: Client) -> Any:
    return (await client("reader").get("/-/routes/shop")).json()["variants"]["new"]["lift"]["delay"]


async def test_the_difference_is_that_of_least_squares(harness: Harness, client: Client) -> None:
    await put(harness, client, "adjust: cart, ")
    made = await live(harness, 900)
    lift = await read(client)
    assert (lift["adjusted_by"], lift["unit"], lift["method"]) == ("covariate", "requests", "pooled")
    known = np.array([cart is not None for _, _, cart in made])
    x = np.array([place(cart or 0.0) for _, _, cart in made])
    candidate, y = (np.array([one[k] for one in made]) for k in (0, 1))
    assert lift["absolute"] == pytest.approx(slope_of(y, candidate, x, known, np.ones(len(y))), rel=1e-9)
    over_time = (await client("reader").get("/-/routes/shop/lift?metric=delay")).json()
    last = over_time["variants"]["new"][-1]
    assert {key: last[key] for key in ("absolute", "interval", "adjusted_by")} == {
        key: lift[key] for key in ("absolute", "interval", "adjusted_by")
    }


async def test_an_edit_of_the_metric_holds_for_all_that_was_recorded(
    harness: Harness, client: Client
) -> None:
    await put(harness, client, "")
    await live(harness, 900)
    plain = await read(client)
    assert plain["adjusted_by"] is None
    text = harness.revision().document.replace("delay: {type: real", "delay: {adjust: cart, type: real")
    etag = harness.revision().etag
    await client("ops").put("/-/config", content=text, headers={"if-match": etag})
    adjusted = await read(client)
    assert adjusted["adjusted_by"] == "covariate"
    widths = [one["interval"][1] - one["interval"][0] for one in (plain, adjusted)]
    assert widths[1] < 0.6 * widths[0]


def rewarded(y: Floats, x: Floats) -> Rewarded:
    sums = RewardSums(len(y), float(y.sum()), float(y @ y))
    return Rewarded(sums, sums, covariates={CART.id.hex(): PairSums.of(x, y)})


@pytest.mark.parametrize("moved", [True, False])
def test_where_shares_moved_by_the_shares_of_the_moment(*, moved: bool) -> None:
    """The overlap-weighted difference, adjusted; where a variant came later, the time before is left out."""
    rng, buckets = np.random.default_rng(3), []
    values: list[tuple[Floats, Floats, float, float]] = []
    whole: dict[tuple[str, str], Rewarded] = defaultdict(Rewarded)
    for n, share in enumerate((0.1, 0.5, 0.3) if moved else (0.0, 0.4, 0.4)):
        for variant, p in (("old", 1 - share), ("new", share)):
            x = rng.uniform(-1, 1, round(400 * p))
            y = 10 * n + 5 * x + (variant == "new") + rng.normal(0, 1, len(x))
            one = rewarded(y, x)
            whole[variant, "spend"] += one
            counts = Counts(len(x), len(x), expected=400 * p)
            buckets.append(RewardedBucket(10.0 * n, variant, n, counts, {"spend": one}))
            if share:
                values.append((y, x, float(variant == "new"), 1 - p if moved else 1.0))
    total = {v: Counts(500, 500, expected=500) for v in ("old", "new")}
    by = {"spend": CART.id.hex()}
    compared = Comparisons(("old", "new"), DECLARED, Observed(total, dict(whole), buckets), adjusted=by)
    lift = compared.lift("new", "old")["spend"]
    method = "weighted" if moved else "pooled"
    assert (lift["method"], lift["adjusted_by"]) == (method, "covariate")
    y, x = (np.concatenate([one[k] for one in values]) for k in (0, 1))
    candidate, w = (np.concatenate([np.full(len(one[0]), one[k]) for one in values]) for k in (2, 3))
    wanted = slope_of(y, candidate, x, np.ones(len(y), bool), w)
    assert lift["absolute"] == pytest.approx(wanted, rel=1e-9)
    plain = Comparisons(("old", "new"), DECLARED, Observed(total, dict(whole), buckets)).lift("new", "old")[
        "spend"
    ]
    assert plain["adjusted_by"] is None
    widths = [one["interval"][1] - one["interval"][0] for one in (plain, lift)]
    assert widths[1] < widths[0]
    points = lift_over_time(
        ("old", "new"), DECLARED, buckets, metric="spend", baseline="old", points=9, now=99.0, adjusted=by
    )
    assert points["new"][-1]["interval"] == pytest.approx(lift["interval"])


def test_the_plan_knows_what_the_covariate_explains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def record() -> None:
        store = SqliteStore(tmp_path / "store.db")
        await store.open()
        rng, now = np.random.default_rng(1), time.time() - 3_600
        made = [
            outcome(route="r", time=now + k / 100, assigned="v1", served="v1", sticky=False)
            for k in range(400)
        ]
        await store.append(made)
        rows = []
        for one in made:
            cart = float(rng.uniform(0, 100))
            context = pack_values([], [(CART.id, place(cart))]).hex()
            rows.append(reward(cart + float(rng.normal(0, 10)), of=one, metric="spent", context=context))
        await store.reward(rows)
        await store.close()

    asyncio.run(record())
    means = re.sub(
        r" +- \{metric: (error_rate|ok),.*\n", "", CONFIG
    )  # without the bets on rates, which take long
    plain: Any = planned(tmp_path, capsys, config=means)["spent"]
    config = means.replace("spent: {type: real}", "spent: {type: real, adjust: cart}")
    config = config.replace("    policy:\n", f"    {COVARIATE}\n    policy:\n")
    adjusted: Any = planned(tmp_path, capsys, config=config)["spent"]
    for verdict in ("fail", "pass"):
        assert adjusted[verdict]["requests"] < 0.3 * plain[verdict]["requests"]
    assert (plain["adjusted_by"], adjusted["adjusted_by"]) == (None, "covariate")
    assert main(["plan", "--config", str(tmp_path / "turnout.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "spent max_decrease 1, adjusted " in printed, printed


def test_what_check_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "turnout.yaml"
    config = CONFIG.replace("STORE", "store.db").replace(
        "spent: {type: real}", "spent: {type: real, adjust: cart}"
    )
    routes = config.replace("    policy:\n", f"    {COVARIATE}\n    feedback: [ok]\n    policy:\n")
    file.write_text(routes.replace("- {metric: spent, max_decrease: 1}", ""))
    assert main(["check", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "no route with this covariate takes the metric" in json.dumps(found)
