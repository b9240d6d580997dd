"""A bandit with features in the allocation loop: published once, restored by everybody to the last bit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from gateway.compile.ensembles import expected, restore, seed
from gateway.compile.steering import Steering
from gateway.config.document import Document
from gateway.config.load import load
from gateway.loops.allocation import Allocations
from gateway.record.context import pack
from gateway.state.store import Store
from policies.allocation.model import Allocation
from policies.contextual.bandit import Contextual, Ensemble
from policies.contextual.features import GRID, encode, fingerprint
from tests.support.in_force import put_in_force
from tests.support.made import T0, outcome, reward

CONFIG = """
metrics: {correct: {type: boolean}, cost: {type: real, goal: minimize}}
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
  r:
    match: {path: /r}
    UNIT
    variants: {VARIANTS}
    policy:
      type: bandit
      algorithm: linear
      metric: METRIC
      floor: FLOOR
      features: {FEATURES}
      REST
"""
FEATURES = "tier: {header: x-tier, values: [free, paid]}, age: {json: age, maximum: 100}"


def document(
    variants: str = "v1, v2",
    *,
    metric: str = "correct",
    floor: str = "2%",
    features: str = FEATURES,
    unit: str = "",
    rest: str = "",
) -> Document:
    named = ", ".join(f"{name}: {{backend: a}}" for name in variants.split(", "))
    text = CONFIG.replace("VARIANTS", named).replace("METRIC", metric).replace("FLOOR", floor)
    text = text.replace("FEATURES", features).replace("UNIT", unit).replace("REST", rest)
    return load(text, source="test", env={})


@dataclass
class Replica:
    """One process's allocations, and what its requests read."""

    loop: Allocations
    swapped: list[tuple[int, Allocation, Ensemble | None]] = field(default_factory=list)

    @property
    def plan(self) -> Contextual:
        plan = self.loop.held["r"].plan
        assert isinstance(plan, Contextual)
        return plan

    def shares(self, tier: str, age: float) -> tuple[float, ...]:
        found = self.loop.held["r"].ensemble
        assert found is not None
        return found.shares(encode(found.plan.features, {"tier": tier, "age": age}))


async def replica(store: Store, owner: str, given: Document, now: float = T0 + 600) -> Replica:
    swapped: list[tuple[int, Allocation, Ensemble | None]] = []
    loop = Allocations(
        store,
        owner=owner,
        clock=lambda: now,
        swap=lambda _, epoch, allocation, ensemble: swapped.append((epoch, allocation, ensemble)),
        announce=lambda _: None,
    )
    made = Replica(loop, swapped)
    await loop.start()
    put_in_force(given, loop)
    await loop.step()
    return made


async def teach(
    store: Store, plan: Contextual, number: int, start: int = 0, *, time: float = T0, flip: bool = False
) -> None:
    """v1 is right for free users, v2 for paid ones (or the other way round); whatever their age."""
    rng = np.random.default_rng([3, start])
    rewards, outcomes = [], []
    for _ in range(number):
        raw = {"tier": ("free", "paid")[rng.integers(2)], "age": float(rng.integers(100))}
        variant = ("v1", "v2")[rng.integers(2)]
        right = (variant == "v1") == ((raw["tier"] == "free") != flip)
        value = float(rng.random() < (0.8 if right else 0.3))
        row = encode(plan.features, raw)
        about = outcome(time, route="r", assigned=variant, served=variant, features=json.dumps(raw))
        outcomes.append(about)
        context = pack(fingerprint(plan.features), row).hex()
        rewards.append(reward(value, of=about, metric=plan.metric, context=context))
    await store.append(outcomes)
    await store.reward(rewards)


async def test_it_begins_with_even_shares_and_no_ensemble(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await leader.loop.step()
    assert leader.loop.held["r"].allocation.as_dict() == {"v1": 0.5, "v2": 0.5}
    assert leader.loop.held["r"].ensemble is None
    assert leader.loop.held["r"].published
    assert [epoch for epoch, _, _ in leader.swapped] == [1]


async def test_rewards_teach_it_and_followers_decide_by_the_same_numbers(store: Store) -> None:
    leader = await replica(store, "leader", document())
    follower = await replica(store, "follower", document())
    await teach(store, leader.plan, 400)
    await leader.loop.step()
    await follower.loop.step()
    assert leader.loop.leads
    assert not follower.loop.leads
    mine, theirs = leader.loop.held["r"], follower.loop.held["r"]
    assert mine.epoch == theirs.epoch == 2
    assert mine.allocation == theirs.allocation
    assert mine.ensemble is not None
    assert theirs.ensemble is not None
    assert mine.ensemble is not theirs.ensemble
    assert (mine.ensemble.coefficients == theirs.ensemble.coefficients).all()
    free, paid = leader.shares("free", 40), leader.shares("paid", 40)
    assert free[0] > 0.95
    assert paid[1] > 0.95
    rng = np.random.default_rng(1)
    for _ in range(100):
        row = (1.0, *(np.round(rng.uniform(-1, 1, 4) * GRID) / GRID).tolist())
        assert mine.ensemble.shares(row) == theirs.ensemble.shares(row)
    assert mine.allocation.as_dict()["v1"] == pytest.approx(0.5, abs=0.1), "half of the requests are free"
    assert follower.swapped[-1][0] == 2
    assert follower.swapped[-1][2] is theirs.ensemble


async def test_a_restart_finds_what_was_learned_and_publishes_nothing(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await teach(store, leader.plan, 300)
    await leader.loop.step()
    again = await replica(store, "leader", document())
    assert again.loop.held["r"].epoch == 2
    assert again.shares("free", 10) == leader.shares("free", 10)
    assert again.loop.held["r"].contextual == leader.loop.held["r"].contextual
    await again.loop.step()
    await again.loop.reconsider("r", "anything")
    assert again.loop.held["r"].epoch == 2


async def test_an_epoch_comes_only_when_the_posterior_has_moved(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await teach(store, leader.plan, 2000)
    await leader.loop.step()
    await teach(store, leader.plan, 1, start=1)
    await leader.loop.step()
    assert leader.loop.held["r"].epoch == 2, "one more among two thousand"
    await teach(store, leader.plan, 600, start=2)
    await leader.loop.step()
    assert leader.loop.held["r"].epoch == 3


async def test_other_features_begin_anew_and_old_ones_are_remembered(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await teach(store, leader.plan, 300)
    await leader.loop.step()
    other = document(features="tier: {header: x-tier, values: [paid, free]}, age: {json: age, maximum: 100}")
    put_in_force(other, leader.loop)
    assert leader.loop.held["r"].ensemble is None
    assert leader.loop.held["r"].allocation.as_dict() == {"v1": 0.5, "v2": 0.5}
    await leader.loop.step()
    assert (leader.loop.held["r"].epoch, leader.loop.held["r"].ensemble) == (3, None)
    put_in_force(document(), leader.loop)
    await leader.loop.step()
    assert leader.shares("free", 40)[0] > 0.9
    moved = document(features="tier: {json: tier, values: [free, paid]}, age: {header: x-age, maximum: 100}")
    put_in_force(moved, leader.loop)
    assert leader.shares("free", 40)[0] > 0.9, "where a feature is found changes nothing"


@pytest.mark.long
async def test_an_edited_floor_holds_at_once(store: Store) -> None:
    leader = await replica(store, "leader", document())
    follower = await replica(store, "follower", document())
    await teach(store, leader.plan, 400)
    await leader.loop.step()
    before = leader.shares("free", 40)
    for one in (leader, follower):
        put_in_force(document(floor="20%"), one.loop)
    assert leader.shares("free", 40) == pytest.approx((0.2 + 0.6 * (before[0] - 0.02) / 0.96, 0.2), abs=0.01)
    await (
        follower.loop.step()
    )  # which has not heard of the ensemble yet, and must not decide by the old floor
    assert follower.loop.held["r"].ensemble is None
    await leader.loop.step()
    await follower.loop.step()
    assert leader.loop.held["r"].epoch == follower.loop.held["r"].epoch == 3
    assert leader.shares("free", 40) == follower.shares("free", 40)


async def test_a_new_variant_starts_at_its_prior(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await teach(store, leader.plan, 400)
    await leader.loop.step()
    put_in_force(document("v1, v2, v3"), leader.loop)
    await leader.loop.step()
    shares = leader.shares("free", 40)
    assert len(shares) == 3
    assert shares[0] > 0.3
    assert 0.05 < shares[2] < 0.7, "nobody knows it"
    assert leader.loop.held["r"].contextual is not None
    assert leader.loop.held["r"].contextual["rewards"]["v3"] == 0


async def test_caps_bind_every_row_and_are_published(store: Store) -> None:
    leader = await replica(store, "leader", document())
    follower = await replica(store, "follower", document())
    await teach(store, leader.plan, 400)
    await leader.loop.step()
    leader.loop.steering["r"] = Steering(ejected=frozenset({"v1"}))
    await leader.loop.reconsider("r", "guardrail: v1")
    assert leader.shares("free", 40) == (0.0, 1.0)
    await follower.loop.step()
    assert follower.shares("free", 40) == (0.0, 1.0)
    assert follower.loop.held["r"].allocation.as_dict() == {"v1": 0.0, "v2": 1.0}
    assert follower.loop.held["r"].reason == "guardrail: v1"


async def test_caps_bind_before_anything_was_learned(store: Store) -> None:
    leader = await replica(store, "leader", document())
    leader.loop.steering["r"] = Steering(ejected=frozenset({"v1"}))
    await leader.loop.reconsider("r", "guardrail: v1")
    assert leader.loop.held["r"].allocation.as_dict() == {"v1": 0.0, "v2": 1.0}


async def test_less_cost_is_better(store: Store) -> None:
    leader = await replica(store, "leader", document(metric="cost"))
    await teach(store, leader.plan, 400)
    await leader.loop.step()
    assert leader.shares("free", 40)[0] < 0.05


async def test_old_rewards_are_forgotten_where_there_is_a_half_life(store: Store) -> None:
    given = document(rest="discount: {half_life: 10m}")
    leader = await replica(store, "leader", given, now=T0 + 7200)
    await teach(store, leader.plan, 400)
    await teach(store, leader.plan, 200, start=1, time=T0 + 7000, flip=True)
    await leader.loop.step()
    assert leader.shares("free", 40)[1] > 0.9, "the world has turned round"
    contextual = leader.loop.held["r"].contextual
    assert contextual is not None
    assert 0 < sum(contextual["rewards"].values()) < 220


async def test_retracting_everything_brings_even_shares_back(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await teach(store, leader.plan, 50)
    await leader.loop.step()
    assert leader.loop.held["r"].ensemble is not None
    records = await store.records(route="r")
    await store.reward([r._replace(value=None) for record in records for r in record.rewards])
    await leader.loop.step()
    assert leader.loop.held["r"].ensemble is None
    assert leader.loop.held["r"].allocation.as_dict() == {"v1": 0.5, "v2": 0.5}


async def test_another_policy_takes_over_with_an_epoch_of_its_own(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await teach(store, leader.plan, 200)
    await leader.loop.step()
    text = CONFIG[: CONFIG.index("    policy:")] + "    policy: {type: bandit, metric: correct}\n"
    text = text.replace("UNIT", "").replace("VARIANTS", "v1: {backend: a}, v2: {backend: a}")
    put_in_force(load(text, source="test", env={}), leader.loop)
    assert leader.loop.held["r"].epoch == 3
    assert leader.loop.held["r"].contextual is None
    await leader.loop.step()
    put_in_force(document(), leader.loop)
    await leader.loop.step()
    assert leader.shares("free", 40)[0] > 0.9


async def test_what_was_drawn_for_another_plan_is_not_restored(store: Store) -> None:
    leader = await replica(store, "leader", document())
    await teach(store, leader.plan, 100)
    await leader.loop.step()
    stored = (await store.published())["r"]
    assert expected(stored.evidence)
    data = await store.ensemble("r", 2)
    assert data is not None
    found = restore(leader.plan, data)
    assert found is not None
    assert found.packed() == data
    other = await replica(store, "other", document("v2, v1"))
    assert restore(other.plan, data) is None


def test_sticky_units_keep_their_draws_from_epoch_to_epoch() -> None:
    assert seed("r", 3, sticky=True) == seed("r", 4, sticky=True)
    assert seed("r", 3, sticky=False) != seed("r", 4, sticky=False)
    assert seed("r", 3, sticky=False) != seed("s", 3, sticky=False)
