"""What is made of a stop rule's word: kept, told, carried out, taken back; on every replica, over restarts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gateway.errors import TurnoutError
from gateway.loops.allocation import LEASE_TTL_S
from gateway.state.base import StoreUnavailable
from gateway.state.store import Store
from tests.support.made import outcome, published, reward
from tests.support.one_route import one_route
from tests.support.replica import Replica

STOP = ", stop: {probability_best: 95%, min_samples: 50, then: ask}"
CONFIG = one_route(f"{{type: bandit, metric: correct{STOP}}}")
SINGLE = CONFIG.replace("ask", "single")


class Bandit(Replica):
    @property
    def told(self) -> Mapping[str, Any]:
        found = self.controller.describe_stop_rule("r")
        assert found is not None
        return found


async def report(store: Store, good: Mapping[str, int], each: int = 100) -> None:
    rewards = [
        reward(float(k < good[v]), of=outcome(route="r", assigned=v, served=v, sticky=False))
        for v in good
        for k in range(each)
    ]
    await store.reward(rewards)


async def test_ask_names_the_winner_and_the_command_hands_over(store: Store) -> None:
    one = await Bandit(store, "one", CONFIG).start()
    with pytest.raises(TurnoutError, match="no winner yet"):
        await one.say("promote")
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert (one.told["state"], one.told["winner"]) == ("asking", "v2")
    assert one.told["command"] == "turnout rollout r promote"
    assert one.told["probability_best"] > 0.99
    assert 0.9 < one.share < 1.0, "asking changes nothing"
    await one.step()
    assert [(e["before"], e["state"], e["winner"]) for _, e in one.events] == [("learning", "asking", "v2")]
    answer = await one.say("promote")
    assert (answer["state"], answer["winner"], answer["by"]) == ("handed_over", "v2", "ann")
    assert one.share == 1.0
    with pytest.raises(TurnoutError, match="handed over already"):
        await one.say("promote")


async def test_a_hand_over_that_the_store_took_without_saying_so_is_told_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await Bandit(store, "one", CONFIG).start()
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    save, load_all, before = store.save_with_events, store.load_all, await store.load_all("route", ("r",))

    async def silently(*document: str, **rest: Any) -> None:
        await save(*document, **rest)
        raise StoreUnavailable("away")

    async def earlier(kind: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        return before if kind == "route" else await load_all(kind, names)

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_with_events", silently)
        with pytest.raises(StoreUnavailable):
            await one.say("promote")
    with monkeypatch.context() as patch:
        patch.setattr(store, "load_all", earlier)  # as if it had begun before the save
        await one.controller.step()
    for _ in range(2):
        await one.step()
        assert one.share == 1.0
    kinds = [event.kind for event in await store.events(after=0)]
    assert kinds == ["winner", "winner", "steered"]


async def rising(store: Store, time: float, gain: float = 0.0) -> None:
    """Two epochs in which more and more succeeds, of v1 and v2 alike but for ``gain``, while v2 takes v1's share."""
    shares = ({"v1": 0.9, "v2": 0.1}, {"v1": 0.1, "v2": 0.9})
    for epoch, (probabilities, level) in enumerate(zip(shares, (0.2, 0.6), strict=True), 1):
        for variant, share in probabilities.items():
            n, rate = round(2000 * share), level + gain * (variant == "v2")
            about = [
                outcome(time + 60 * epoch, route="r", assigned=variant, served=variant, sticky=False)
                for _ in range(n)
            ]
            about = [one._replace(epoch=epoch, propensity=share) for one in about]
            await store.append(about)
            await store.reward([reward(float(k < rate * n), of=one) for k, one in enumerate(about)])


@pytest.mark.parametrize(("gain", "winner"), [(0.0, None), (0.2, "v2")])
async def test_a_level_that_rises_for_all_names_no_winner(
    store: Store, gain: float, winner: str | None
) -> None:
    one = await Bandit(store, "one", SINGLE).start()
    one.time += 300
    await rising(store, one.time - 300, gain)
    await one.step()
    assert one.told["winner"] == winner
    assert (one.share == 1.0) == (winner is not None)


STICKY = SINGLE.replace("boolean}", "boolean, missing: zero, window: 10s}").replace(
    "    variants:", "    unit: {header: x-user}\n    variants:"
)


@pytest.mark.parametrize(("busy", "winner"), [(False, "v2"), (True, None)], ids=["many", "one busy"])
async def test_missing_values_of_few_users_name_no_winner(
    store: Store, busy: bool, winner: str | None
) -> None:
    """Whose they are, the record tells: with two busy users, there are two users who were not rewarded."""
    one = await Bandit(store, "one", STICKY).start()
    rows, rewards = [], []
    for v, good in (("v1", 20), ("v2", 160)):
        for k in range(400):
            unit = (1000 if v == "v1" else 2000) + (k if k < good or not busy else 999)
            row = outcome(one.time, route="r", assigned=v, served=v, unit=unit, propensity=0.5)
            rows.append(row)
            if k < good:
                rewards.append(reward(1.0, of=row, unit=unit, period="all"))
    await store.append(rows)
    await store.reward(rewards)
    one.time += 300
    units = one.allocations._learning._units
    units._max_look_s = -1.0  # it does not come to an end
    for _ in range(3):
        await one.step()
        assert one.told["winner"] is None
        one.time += 10
    units._max_look_s = 60.0
    await one.step()  # without a new reward
    assert one.told["winner"] == winner


async def test_single_hands_over_for_good(store: Store) -> None:
    one = await Bandit(store, "one", SINGLE).start()
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert (one.told["state"], one.told["by"], one.share) == ("handed_over", "rule", 1.0)
    # Beliefs that move on move nothing any more.
    await report(store, {"v2": 0}, each=200)
    await one.step()
    await one.step()
    assert (one.told["winner"], one.share) == ("v2", 1.0)
    assert [e["state"] for _, e in one.events] == ["handed_over"]
    again = await Bandit(store, "again", SINGLE).start()
    again.time += 60
    await again.step()
    assert (again.told["state"], again.share) == ("handed_over", 1.0)
    assert again.events == []


async def test_a_hand_over_that_was_taken_back_asks_the_next_time(store: Store) -> None:
    one = await Bandit(store, "one", SINGLE).start()
    with pytest.raises(TurnoutError, match="handed nothing over"):
        await one.say("rollback")
    await report(store, {"v1": 70, "v2": 80}, each=1000)
    await report(store, {"v1": 0, "v2": 120}, each=200)
    await one.step()
    assert one.share == 1.0
    lead = one.told["lead"]
    assert 0 < lead["interval"][0] < lead["shrunk"] < lead["difference"] < lead["interval"][1]
    assert lead["over"] == "v1"
    answer = await one.say("rollback")
    assert (answer["state"], answer["winner"]) == ("learning", None)
    await one.step()
    assert one.told["state"] == "asking"
    with pytest.raises(TurnoutError, match="knows 'promote'"):
        await one.say("pause")


async def test_a_winner_that_is_no_longer_one_is_not_asked_about(store: Store) -> None:
    one = await Bandit(store, "one", CONFIG).start()
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    await report(store, {"v1": 100, "v2": 60})
    await one.step()
    assert (one.told["state"], one.told["winner"], one.told["command"]) == ("learning", None, None)
    assert [e["state"] for _, e in one.events] == ["asking", "learning"]


async def test_the_lead_follows_the_data_while_a_person_is_asked(store: Store) -> None:
    one = await Bandit(store, "one", CONFIG).start()
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    first = one.told
    await report(store, {"v1": 200, "v2": 240}, each=400)
    await one.step()
    assert (one.told["state"], one.told["since"]) == ("asking", first["since"])
    assert one.told["lead"]["difference"] == pytest.approx(320 / 500 - 240 / 500)
    assert len(one.events) == 1
    again = await Bandit(store, "again", CONFIG).start()
    assert again.told["lead"] == one.told["lead"]


async def test_a_command_at_any_replica_is_carried_out_by_the_leader(store: Store) -> None:
    leader = await Bandit(store, "leader", CONFIG).start()
    follower = await Bandit(store, "follower", CONFIG).start()
    await report(store, {"v1": 40, "v2": 80})
    for replica in (leader, follower):
        await replica.step()
    assert follower.told["winner"] == "v2"
    await follower.say("promote")
    for replica in (leader, follower):
        await replica.step()
        await replica.step()
    assert (leader.share, follower.share) == (1.0, 1.0)


async def test_an_edit_begins_anew_and_an_ejected_winner_gives_back(store: Store) -> None:
    guardrails = "baseline: v1, guardrails: [{metric: error_rate, max_increase: 2%}], stop:"
    guarded = SINGLE.replace("stop:", guardrails)
    one = await Bandit(store, "one", guarded).start()
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert one.share == 1.0
    found = await store.load("route", "r")
    assert found is not None
    kept = json.loads(found[1])
    kept["ejections"]["ejected"] = {"v2": "it fails"}
    await store.save("route", "r", json.dumps(kept), expected=found[0])
    await one.step()
    assert (one.told["state"], one.told["by"], one.share) == ("learning", "guardrail", 0.0)
    joined = SINGLE.replace("v2: {backend: a}", "v2: {backend: a}, v3: {backend: a}")
    await one.edit(joined.replace("stop:", "debut: {share: 10%, samples: 50}, stop:"))
    await one.step()
    assert one.told["state"] == "learning", "v3 has no rewards yet"
    assert one.allocations.held["r"].allocation.probability("v3") == pytest.approx(0.1)
    await one.edit(CONFIG.replace(STOP, ""))
    assert one.controller.describe_stop_rule("r") is None
    with pytest.raises(TurnoutError, match="no stop rule"):
        await one.say("promote")


async def test_a_new_leader_takes_back_what_the_last_one_published_before_it_heard(store: Store) -> None:
    """Nothing has changed in the store since the new one started, but that the lease of the last one has ended."""
    one = await Bandit(store, "one", SINGLE).start()
    await report(store, {"v1": 40, "v2": 80})
    await one.step()
    assert one.share == 1.0
    epoch = one.allocations.held["r"].epoch
    late = published(epoch + 1, route="r", probabilities={"v1": 0.05, "v2": 0.95}, bounds=(0.05, 1.0))
    assert await store.publish(late)
    two = await Bandit(store, "two", SINGLE).start()
    await two.step()
    assert (two.allocations.leads, two.share) == (False, 0.95)
    two.time += LEASE_TTL_S + 1
    await two.step()
    assert (two.allocations.leads, two.share) == (True, 1.0)
