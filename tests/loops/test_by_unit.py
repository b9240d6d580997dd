"""Guardrails of a sticky route judge errors by unit, read from the record by the loops that act."""

from __future__ import annotations

import pytest

from gateway.ingest.by_unit import OutcomesByUnit
from gateway.state.store import Store
from tests.loops.test_rollout_bandit import Rollout
from tests.support.made import outcome, reward
from tests.support.one_route import canary, one_route

CANARY = one_route(canary("{weight: 50%, for: 1h}", "metric: error_rate, max_increase: 5%"), unit="x-user")
BANDIT = one_route(
    "{type: bandit, metric: ok, baseline: v1, guardrails: [{metric: error_rate, max_increase: 5%}]}",
    metrics="ok: {type: boolean}",
    unit="x-user",
)


class Service(Rollout):
    async def answer(
        self, users: int, each: int, failing: int, time: float | None = None, *, status: int = 0
    ) -> None:
        """Of ``users`` users of each variant, ``failing`` of the candidate's fail ``each`` times.

        ``status``: they do not fail, but get this response.
        """
        epoch = self.allocations.held["r"].epoch
        made = [
            outcome(
                time=(self.time if time is None else time) + 1e-3 * k,
                route="r",
                epoch=epoch,
                assigned=v,
                served=v,
                unit=(n + 1) * 2**40 + (2**32 if v == "v2" else 0),
                error="reset" if v == "v2" and n < failing and not status else "",
                status=status if v == "v2" and n < failing and status else 200,
            )
            for v in ("v1", "v2")
            for n in range(users)
            for k in range(each)
        ]
        await self.store.append(made)
        await self.pass_time(25)


def guarded(config: str, status: int) -> str:
    """``config`` with its guardrail on client errors, if users get a response with ``status``."""
    return config.replace("metric: error_rate", "metric: client_error_rate") if status else config


@pytest.mark.parametrize("status", [0, 422])
async def test_one_unlucky_heavy_user_is_no_breach(store: Store, status: int) -> None:
    one = Service(store, "one", guarded(CANARY, status))
    await one.start()
    # 100 of 300 requests failed, of one user of three.
    await one.answer(users=3, each=100, failing=1, status=status)
    assert one.state == "running"
    found = await one.controller.describe_rollout("r")
    assert found is not None
    (verdict,) = found["verdicts"]
    assert (verdict["unit"], verdict["samples"], verdict["verdict"]) == ("units", 3.0, "inconclusive")
    assert verdict["candidate"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("status", [0, 422])
async def test_many_failing_users_are_one(store: Store, status: int) -> None:
    one = Service(store, "one", guarded(CANARY, status))
    await one.start()
    await one.answer(users=60, each=2, failing=40, status=status)
    assert one.state == "rolled_back"


async def test_an_outcome_that_is_recorded_late_counts_once(store: Store) -> None:
    one = Service(store, "one", CANARY)
    await one.start()
    early = one.time
    await one.answer(users=5, each=2, failing=0)
    await one.answer(users=5, each=2, failing=5, time=early + 0.5)
    await one.pass_time(1)
    found = await one.controller.describe_rollout("r")
    assert found is not None
    assert found["verdicts"][0]["samples"] == 5.0
    assert found["verdicts"][0]["candidate"] == pytest.approx(0.5)


@pytest.mark.parametrize("status", [0, 422])
async def test_a_bandit_ejects_by_units(store: Store, status: int) -> None:
    one = Service(store, "one", guarded(BANDIT, status))
    await one.start()
    await one.answer(users=3, each=100, failing=1, status=status)
    await one.pass_time(20)
    assert not one.allocations.steering["r"].ejected
    await one.answer(users=200, each=2, failing=150, status=status)
    await one.pass_time(20)
    assert one.allocations.steering["r"].ejected == {"v2"}


@pytest.mark.parametrize("status", [0, 422])
async def test_a_bandit_ejects_a_variant_that_fails_for_a_few_heavy_users(store: Store, status: int) -> None:
    """Too few units to compare errors one by one: their shares are compared."""
    one = Service(store, "one", guarded(BANDIT, status))
    await one.start()
    await one.answer(users=25, each=40, failing=25, status=status)
    await one.pass_time(20)
    assert one.allocations.steering["r"].ejected == {"v2"}


async def rewarded(one: Service, users: int, each: int, good: int, best: int = 2**32, first: int = 0) -> None:
    """Rewards of ``users`` users of each variant, from number ``first`` on: those of users below number ``best`` of the
    baseline are 1, and those below ``good`` of the other."""
    made = [
        outcome(
            time=one.time + 1e-3 * k,
            route="r",
            epoch=1,
            assigned=v,
            served=v,
            unit=(2 * n + (v == "v2")) << 40,
        )
        for v in ("v1", "v2")
        for n in range(first, first + users)
        for k in range(each)
    ]
    await one.store.append(made)
    values = [float(row.unit >> 41 < (best if row.assigned == "v1" else good)) for row in made]
    await one.store.reward(
        [reward(x, of=row, metric="ok", period="all") for x, row in zip(values, made, strict=True)]
    )
    await one.pass_time(25)


@pytest.mark.parametrize(
    ("users", "good", "ejected"),
    [(120, 60, True), (30, 0, True), (120, 119, False), (3, 2, False)],
    ids=["many users", "few users", "one unhappy user of many", "one unhappy user of three"],
)
async def test_a_bandit_ejects_by_rewards_of_units(
    store: Store, users: int, good: int, ejected: bool
) -> None:
    """Values one by one need 50 units; below, the means of units are compared."""
    one = Service(store, "one", BANDIT.replace("error_rate, max_increase", "ok, max_decrease"))
    await one.start()
    await rewarded(one, users, each=20, good=good)
    await one.pass_time(20)
    assert one.allocations.steering["r"].ejected == ({"v2"} if ejected else set())


async def test_users_from_before_an_edit_are_one_observation_each(store: Store) -> None:
    """The sums of a unit stand where its first value does: since the edit, only new users have some."""
    text = BANDIT.replace("error_rate, max_increase", "ok, max_decrease")
    one = Service(store, "one", text)
    await one.start()
    await rewarded(one, 120, each=10, good=40, best=60)
    assert not one.allocations.steering["r"].ejected, "40 and 60 happy users of 120 are no breach"
    await one.edit(text.replace("5%", "4%"))
    await one.pass_time(20)
    await rewarded(one, 120, each=10, good=40, best=60)
    await rewarded(one, 60, each=1, good=2**32, first=200)
    await one.pass_time(20)
    assert not one.allocations.steering["r"].ejected


MISSING = "metrics: {bought: {type: boolean, missing: zero, window: 10s}}"


async def some_silent_users(one: Service, period: str) -> None:
    """Three hundred users of each variant buy once; ten with a hundred requests each always buy or, of v2, never."""
    epoch = one.allocations.held["r"].epoch
    made, sold = [], []
    for variant in ("v1", "v2"):
        for user, number in [*((n, 1) for n in range(300)), *((n, 100) for n in range(300, 310))]:
            unit = (user + 1) * 2**40 + (2**32 if variant == "v2" else 0)
            for k in range(number):
                facts = {"route": "r", "epoch": epoch, "assigned": variant, "served": variant, "unit": unit}
                row = outcome(time=one.time + 1e-3 * k, **facts)
                made.append(row)
                if number == 1 or variant == "v1":
                    sold.append(reward(1.0, of=row, metric="bought", unit=unit, period=period))
    await one.store.append(made)
    await one.store.reward(sold)
    await one.pass_time(60)


@pytest.mark.parametrize("read", [True, False])
async def test_missing_values_of_few_busy_users_are_no_breach(store: Store, read: bool) -> None:
    """``read``: whether the record, which says how many requests each user sent, has been read."""
    text = CANARY.replace("metrics: {correct: {type: boolean}}", MISSING)
    one = Service(store, "one", text.replace("error_rate, max_increase", "bought, max_decrease"))
    if not read:
        one.controller._rollouts._units = OutcomesByUnit(store, lambda: one.time, max_look_s=-1.0)
    await one.start()
    await some_silent_users(one, period=f"e{one.allocations.held['r'].epoch}+")
    found = await one.controller.describe_rollout("r")
    assert found is not None
    (verdict,) = found["verdicts"]
    assert verdict["candidate"] == pytest.approx(300 / 1300)
    assert (verdict["verdict"], verdict["interval"]) == ("inconclusive", None)
    users = 1300**2 / 100_300  # as busy as the average request's
    assert verdict["samples"] == pytest.approx(users if read else 0)
    assert one.state == "running"


@pytest.mark.parametrize("read", [True, False])
async def test_nor_are_they_a_reason_to_eject(store: Store, read: bool) -> None:
    text = BANDIT.replace("metrics: {ok: {type: boolean}}", MISSING).replace("metric: ok", "metric: bought")
    one = Service(store, "one", text.replace("error_rate, max_increase", "bought, max_decrease"))
    if not read:
        one.controller._guardrails._units = OutcomesByUnit(store, lambda: one.time, max_look_s=-1.0)
    await one.start()
    await some_silent_users(one, period="all")
    await one.pass_time(20)
    assert not one.allocations.steering["r"].ejected
