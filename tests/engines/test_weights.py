"""Weights of HTTPRoutes: what is written, what never is, and what is said of what goes wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.kubernetes.http_route import PARTS, weights_for
from tests.engines.cluster import PLACE, backend, http_route, world
from tests.support.api_server import StatusError

HALF = {"v1": 0.5, "v2": 0.5}
Json = dict[str, Any]


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=16).filter(lambda found: sum(found) > 0),
    st.integers(1000, PARTS),
)
def test_weights_add_up_and_each_share_gets_a_part(found: list[float], total: int) -> None:
    shares = {f"v{number}": share / sum(found) for number, share in enumerate(found)}
    made = weights_for(shares, total)
    assert sum(made.values()) == total
    for name, share in shares.items():
        assert (made[name] > 0) == (share > 0)
        assert abs(made[name] - share * total) <= 1 + len(shares)


async def test_shares_become_weights_and_nothing_else_changes() -> None:
    async with world() as it:
        before = it.found
        it.publish({"v1": 0.9, "v2": 0.1})
        await it.step()
        assert it.weights == {"digits-v1": 900_000, "digits-v2": 100_000}
        after = it.found
        for found in (before, after):
            found["metadata"] = {
                k: v for k, v in found["metadata"].items() if k in ("name", "namespace", "uid")
            }
            for ref in found["spec"]["rules"][0]["backendRefs"]:
                del ref["weight"]
        assert after == before


async def test_the_api_server_notes_turnout_as_the_owner_so_that_an_apply_of_others_conflicts() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.step()
        owners = {e["manager"]: e["fieldsV1"] for e in it.found["metadata"]["managedFields"]}
        assert owners["turnout"]["f:spec"] == {"f:rules": {}}
        assert "f:rules" not in owners["kubectl-client-side-apply"]["f:spec"]
        with pytest.raises(StatusError, match=r'conflict with "turnout": \.spec\.rules'):
            it.server.apply(*PLACE, http_route(), "argocd")


async def test_a_route_is_accepted_once_its_controller_has_taken_this_version() -> None:
    async with world() as it:
        it.server.controller(*PLACE)
        it.publish(HALF)
        await it.step()
        assert (it.state, it.node.epochs) == ("behind", {})
        it.server.controller(*PLACE)
        await it.step()
        assert (it.state, it.node.epochs) == ("accepted", {"digits": 1})


async def test_a_service_as_parent_is_written_alike() -> None:
    parent = {"group": "", "kind": "Service", "name": "digits", "port": 8080}
    async with world(http_route(parent=parent)) as it:
        it.publish(HALF)
        await it.accepted()
        assert it.weights == {"digits-v1": 500_000, "digits-v2": 500_000}
        assert it.state == "accepted"


async def test_an_unchanged_allocation_is_written_once_and_read_every_five_seconds() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.server.calls.clear()
        for _ in range(9):
            await it.step()
        assert [method for method, *_ in it.server.calls] == ["GET"]


@pytest.mark.parametrize(
    ("share", "reason", "written"),
    [
        (0.504, "posterior", False),
        (0.505, "posterior", True),
        (0.0, "posterior", True),
        (0.504, "config", True),
        (0.501, "guardrail: error_rate", True),
    ],
)
async def test_what_a_bandit_learned_is_written_from_half_a_point_on(
    share: float, reason: str, written: bool
) -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.publish({"v1": 1 - share, "v2": share}, reason)
        one = await it.accepted()
        assert it.weights["digits-v2"] == (round(share * PARTS) if written else 500_000)
        assert it.state == "accepted", "in effect as far as it matters"
        assert one.changes[-1].epoch == (2 if written else 1)


async def test_small_moves_add_up_until_they_are_written() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        for share in (0.502, 0.504, 0.506):
            it.publish({"v1": 1 - share, "v2": share}, "posterior")
            await it.step()
        assert it.weights["digits-v2"] == 506_000


# What is not Turnout's --------------------------------------------------------------------------------
def with_backend(weights: dict[str, int], other: int) -> Json:
    found = http_route(weights=weights)
    found["spec"]["rules"][0]["backendRefs"].insert(
        1, {"name": "mirror-of-2019", "port": 80, "weight": other}
    )
    return found


async def test_a_backend_of_others_keeps_its_weight_and_its_share() -> None:
    async with world(with_backend({"v1": 9000, "v2": 0}, 1000)) as it:
        it.publish({"v1": 0.7, "v2": 0.3})
        await it.step()
        assert it.weights == {"digits-v1": 6300, "mirror-of-2019": 1000, "digits-v2": 2700}


async def test_a_rule_without_variants_is_left_alone() -> None:
    found = http_route()
    other = {"backendRefs": [{"name": "x", "port": 80, "weight": 3}, {"name": "y", "port": 80}]}
    found["spec"]["rules"].insert(0, copy.deepcopy(other))
    async with world(found) as it:
        it.publish(HALF)
        await it.step()
        assert it.found["spec"]["rules"][0] == other
        assert [b["weight"] for b in it.found["spec"]["rules"][1]["backendRefs"]] == [500_000, 500_000]


async def test_a_variant_that_the_route_no_longer_has_gets_no_requests() -> None:
    async with world(http_route(weights={"v1": 1, "v2": 1, "v0": 8})) as it:
        it.publish(HALF)
        await it.step()
        assert it.weights == {"digits-v1": 500_000, "digits-v2": 500_000, "digits-v0": 0}


def unmarked() -> Json:
    found = http_route()
    for ref in found["spec"]["rules"][0]["backendRefs"]:
        del ref["filters"]
    return found


def sticky() -> Json:
    found = http_route()
    found["spec"]["rules"][0]["sessionPersistence"] = {"sessionName": "s"}
    return found


def twice() -> Json:
    found = http_route()
    found["spec"]["rules"][0]["backendRefs"].append(backend("v2", 1))
    return found


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            sticky(),
            "rule 0 of prod/digits has sessionPersistence: a rollback would not move clients with a session",
        ),
        (
            unmarked(),
            "no backendRef of prod/digits is a variant's; give the backendRef of each variant a filter",
        ),
        (
            http_route(weights={"v1": 1}),
            "rule 0 of prod/digits has no backendRef of the variant 'v2'; give it exactly",
        ),
        (twice(), "has several backendRefs of the variant 'v2'; give it exactly one"),
        (
            with_backend({"v1": 90, "v2": 0}, 10),
            "add up to 90; multiply all its weights, so that they add up to at",
        ),
    ],
    ids=["sessions", "unmarked", "missing", "twice", "coarse"],
)
async def test_a_route_that_must_not_be_written_is_refused_and_left_as_it_is(found: Json, said: str) -> None:
    async with world(found) as it:
        before = it.found
        it.publish(HALF)
        await it.step()
        assert said in it.node.refused
        assert it.state == "refused"
        assert it.found == before


# Which weights were in effect ---------------------------------------------------------------------------
async def test_requests_belong_to_the_weights_of_their_time_except_while_proxies_follow_a_change() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted(0)
        written = it.now - 1.0
        one = await it.accepted(20)
        it.publish({"v1": 1.0, "v2": 0.0})
        one = await it.accepted(0)
        changed = it.now - 1.0
        epochs = {at: found.epoch if (found := one.at(at)) is not None else None for at in (
            written - 1, written + 1, written + 6, changed - 0.5, changed + 0.5, changed + 6,
        )}  # fmt: skip
        assert list(epochs.values()) == [0, None, 1, 1, None, 2]


async def test_a_new_epoch_of_the_same_weights_does_not_hide_that_proxies_still_follow_a_change() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted(0)
        it.now += 20
        it.publish({"v1": 1.0, "v2": 0.0})
        await it.step(0)
        it.publish({"v1": 1.0, "v2": 0.0}, "stage")
        one = await it.step(1)
        assert one.at(it.now + 1) is None
        found = one.at(it.now + 6)
        assert found is not None
        assert found.epoch == 3


async def test_another_httproute_begins_without_the_history_of_the_old_one() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.server.create(http_route(name="other"))
        section = it.document.routes["digits"].model_copy(update={"httproute": "prod/other"})
        it.document = it.document.model_copy(update={"routes": {"digits": section}})
        one = await it.step(10)
        assert it.server.get(("prod", "other"))["spec"]["rules"][0]["backendRefs"][0]["weight"] == 500_000
        found = one.at(it.now - 5)
        assert found is not None
        assert (found.epoch, found.weights) == (0, {0: {"v1": 1, "v2": 0}}), "as it was created"
        assert it.state == "behind"


async def test_another_replica_knows_since_when_the_weights_are_in_effect() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.step()
        written = it.now
        it.now += 100
        other = it.replica()
        one = await other.look("digits", it.now - 1, it.published["digits"])
        assert one.at(written + 4) is None
        found = one.at(written + 6)
        assert found is not None
        assert (found.epoch, found.weights) == (1, {0: {"v1": 500_000, "v2": 500_000}})


async def test_rows_need_one_look_for_each_publication_and_one_every_five_seconds() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        other = it.replica()
        it.server.calls.clear()
        for _ in range(4):  # rows of each second
            it.now += 1
            await other.look("digits", it.now - 0.1, it.published["digits"])
        assert len(it.server.calls) == 1
        it.publish({"v1": 0.4, "v2": 0.6})
        it.now += 1
        one = await other.look("digits", it.now - 0.1, it.published["digits"])
        assert one.changes[-1].epoch == 1, "it is not written yet, and must be looked for again"
        await it.step()
        it.server.calls.clear()
        for _ in range(3):
            it.now += 1
            one = await other.look("digits", it.now - 0.1, it.published["digits"])
        assert len(it.server.calls) == 1
        assert one.changes[-1].epoch == 2
        it.now += 5
        await other.look("digits", it.now - 0.1, it.published["digits"])
        assert len(it.server.calls) == 2


async def test_a_leader_goes_on_where_another_stopped() -> None:
    async with world() as it:
        it.publish(HALF)
        await it.accepted()
        it.routes = it.replica()
        it.server.calls.clear()
        await it.step()
        assert [method for method, *_ in it.server.calls] == ["GET"]
        assert it.state == "accepted"
