"""A bandit that looks at features, over real processes: it learns who is best for whom, and its record is true."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.common import Caller, at_once, report, wait_for
from tests.e2e.test_commands import turnout_json
from tests.e2e.tiered import best, chance, models
from tests.support.processes import GatewayProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
record: {flush: 100ms}
loops: {allocation: 100ms}
metrics:
  right: {type: boolean}
backends:
  models: {url: "http://@BACKEND@", ejection: {silence: 0s}} # a busy machine is silent too
routes:
  answers:
    match: {path: /answers}
    variants:
      small: {backend: models, rewrite: {path: /small}}
      large: {backend: models, rewrite: {path: /large}}
    policy:
      type: bandit
      algorithm: linear
      metric: right
      floor: 5%
      features:
        tier: {header: x-tier, values: [free, paid]}
        length: {json: prompt.length, minimum: 0, maximum: 1000}
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with models() as address:
        yield address


def made(rng: np.random.Generator) -> tuple[str, int]:
    """A request: its tier, and how long its prompt is (one of few lengths, so that rows recur).

    Half are those for which ``large`` is better: no shares that are the same for all get more than half right.
    """
    if rng.random() < 0.5:
        return "paid", int(rng.choice([800, 900]))
    tier, lengths = [("free", [100, 200]), ("free", [800, 900]), ("paid", [100, 200])][int(rng.integers(3))]
    return tier, int(rng.choice(lengths))


async def traffic(url: str, requests: int, seed: int, *, clients: int = 8) -> list[dict[str, Any]]:
    """Requests with true rewards; what was asked and who answered."""
    seen: list[dict[str, Any]] = []

    def one(caller: Caller, rng: np.random.Generator) -> None:
        for _ in range(requests // clients):
            tier, length = made(rng)
            fields, answer = caller.call("/answers", {"prompt": {"length": length}}, **{"x-tier": tier})
            identity = fields["x-decision-id"]
            caller.reward(identity, "right", answer["right"])
            seen.append({"tier": tier, "length": length, "variant": fields["x-variant"], "id": identity})

    await at_once(url, one, np.random.default_rng(seed).spawn(clients))
    return seen


def outcomes(gateway: GatewayProcess, route: str = "answers") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = httpx.get(f"{gateway.url}/-/outcomes?route={route}&limit=1000{cursor}").json()
        found += page["outcomes"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def right_choices(seen: list[dict[str, Any]]) -> float:
    return float(sum(one["variant"] == best(one["tier"], one["length"]) for one in seen) / len(seen))


@pytest.mark.slow
def test_it_learns_to_route_by_features_and_survives_a_restart(tmp_path: Path, backend: str) -> None:
    with GatewayProcess(tmp_path, CONFIG.replace("@BACKEND@", backend)) as gateway:
        asyncio.run(traffic(gateway.url, 200, 1))
        learned = asyncio.run(traffic(gateway.url, 1800, 2))
        assert right_choices(learned[-600:]) > 0.8
        wait_for(lambda: len(outcomes(gateway)) == 2000)
        recorded = outcomes(gateway)
        _propensities_are_right(recorded)
        _decisions_are_alike(recorded)
        one = httpx.get(f"{gateway.url}/-/decisions/{learned[-1]['id']}").json()
        features = {"tier": learned[-1]["tier"], "length": learned[-1]["length"]}
        assert one["outcome"]["features"] == features
        before = report(gateway, "answers")
        assert before["epoch"] > 5
        assert before["variants"]["small"]["probability_best"] is None
        assert sum(before["allocation"].values()) == pytest.approx(1.0)
        small = before["contextual"]["coefficients"]["small"]
        assert small["tier=paid"]["mean"] < small["tier=free"]["mean"]
        assert small["length"]["interval"][1] < 0, "the longer the prompt, the worse"
        assert sum(before["contextual"]["rewards"].values()) > 1900
        assert one["sealed"]["context"]["fingerprint"] == before["contextual"]["fingerprint"]
        _evaluated(gateway, tmp_path)
        _explained(gateway, before["epoch"])
        gateway.stop()
        gateway.start()
        after = report(gateway, "answers")
        assert (after["epoch"], after["allocation"]) == (before["epoch"], before["allocation"])
        assert right_choices(asyncio.run(traffic(gateway.url, 200, 3))) > 0.8


def _evaluated(gateway: GatewayProcess, folder: Path) -> None:
    """Off-policy evaluation of what was recorded: the bandit that learns from the earlier half earns more on the
    later one than shares that are the same for all, as the truth has it."""
    record = ["--config", str(gateway.path), "--route", "answers", "--metric", "right"]
    even = folder / "even.yaml"
    even.write_text("{small: 50%, large: 50%}")
    told = turnout_json("evaluate", *record, "--policy", str(gateway.path))
    assert "earlier half" in told["policy"]["note"]
    learned = {e["name"]: e for e in told["metrics"]["right"]["estimates"]}
    plain = {
        e["name"]: e
        for e in turnout_json("evaluate", *record, "--policy", str(even))["metrics"]["right"]["estimates"]
    }
    rows = {(tier, length): n for tier, length, n in KINDS}
    truth = sum(n * (chance("small", *row) + chance("large", *row)) / 2 for row, n in rows.items())
    for name in ("ips", "snips", "dm", "dr"):
        spread = plain[name]["interval"][1] - plain[name]["interval"][0]
        assert abs(plain[name]["value"] - truth) < 1.5 * spread, (name, plain[name], truth)
        assert learned[name]["value"] > plain[name]["value"] + 0.05, name
    top = sum(n * max(chance("small", *row), chance("large", *row)) for row, n in rows.items())
    assert learned["dr"]["value"] < top + 0.05


KINDS = [("paid", 800, 0.25), ("paid", 900, 0.25)] + [
    (tier, length, 1 / 12)
    for tier, length in (
        ("free", 100), ("free", 200), ("free", 800), ("free", 900), ("paid", 100), ("paid", 200)
    )
]  # fmt: skip
"""What `made` draws, with its probabilities."""


def _explained(gateway: GatewayProcess, epoch: int) -> None:
    """`turnout explain` works out for a kind of request what the gateway does with one."""
    for tier, length in (("free", 100), ("paid", 900)):
        features = ["--feature", f"tier={tier}", "--feature", f"length={length}"]
        told = turnout_json("explain", "--config", str(gateway.path), "--route", "answers", *features)
        assert told["epoch"] == epoch
        assert told["features"] == {"tier": tier, "length": length}
        answer = httpx.post(
            f"{gateway.url}/answers", json={"prompt": {"length": length}}, headers={"x-tier": tier}
        )
        sealed = httpx.get(f"{gateway.url}/-/decisions/{answer.headers['x-decision-id']}").json()["sealed"]
        assert told["shares"][sealed["assigned"]] == sealed["propensity"]
        assert max(told["shares"], key=told["shares"].__getitem__) == best(tier, length)


def _propensities_are_right(recorded: list[dict[str, Any]]) -> None:
    """Within each row of features the variants come as often as their recorded propensities say.

    Over decisions i of one row, Σ 1{small} - p_i(small) has mean 0 and variance Σ p_i (1 - p_i).
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in recorded:
        rows[json.dumps(one["features"])].append(one)
    assert len(rows) == 8
    for row, mine in rows.items():
        p = np.array([
            o["propensity"] if o["assigned"] == "small" else 1 - o["propensity"] for o in mine
        ])  # fmt: skip
        took = np.array([o["assigned"] == "small" for o in mine])
        z = (took - p).sum() / math.sqrt((p * (1 - p)).sum())
        assert abs(z) < 4.5, (row, z)
        assert p.min() >= 0.05 - 1e-12, "the floor"
        assert p.max() <= 0.95 + 1e-12
    weights = np.array([1.0 / o["propensity"] for o in recorded])
    error = weights.std() / math.sqrt(len(weights))
    assert abs(weights.mean() - 2.0) < 4.5 * error, "the mean of 1 / propensity is the number of variants"


def _decisions_are_alike(recorded: list[dict[str, Any]]) -> None:
    """In one epoch a row has one share for each variant."""
    known: dict[tuple[int, str, str], float] = {}
    for one in recorded:
        key = (one["epoch"], json.dumps(one["features"]), one["assigned"])
        assert known.setdefault(key, one["propensity"]) == one["propensity"]
