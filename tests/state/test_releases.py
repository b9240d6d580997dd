"""What a later release adds to the store is skipped: replicas of both share it during an upgrade."""

from __future__ import annotations

import json

import pytest

from gateway.engines.nodes import NodeState
from gateway.loops.archiving import Written
from gateway.loops.webhooks import Progress
from gateway.state.base import Published, Revision, of_stored
from gateway.state.memory import Memory
from gateway.state.redis import codec
from policies.rollout.route import RouteState
from policies.rollout.verdicts import Verdict
from tests.support.made import T0, outcome, published, reward, shadowed

LATER = {"of_a_later_release": [1]}


@pytest.mark.parametrize("kind", [NodeState, Written, Published, Progress, Revision])
def test_a_document_may_have_more_fields(kind: type[object]) -> None:
    fields = dict.fromkeys(kind.__dataclass_fields__, 1)  # type: ignore[attr-defined]
    assert of_stored(kind, fields | LATER) == kind(**fields)


def test_an_allocation_may_have_more_fields() -> None:
    one = published(3)
    row = json.loads(codec.pack_published(one)) | LATER
    assert codec.unpack_published(json.dumps(row).encode()) == one


def test_rows_may_have_more_columns() -> None:
    one = reward(1.0, of=outcome(T0))
    row = codec.pack_reward(one, 1.0)
    assert codec.unpack_reward(row[:-1] + b',"later"]') == one
    shadow = shadowed()
    assert codec.unpack_shadowed(codec.pack_shadowed(shadow)[:-1] + b",null]") == shadow


def test_the_last_state_may_have_more_fields() -> None:
    memory, again = Memory(), Memory()
    memory.remember_published(published(3), b"e")
    memory.remember_revisions([Revision(1, T0, "ops", '"e"', "PUT", document="routes: {}\n")])
    packed = json.loads(json.dumps(memory.packed(frozenset())))
    for fields in (packed["published"][0][0], packed["revisions"][0]):
        fields |= LATER
    again.unpack(packed)
    assert again.packed(frozenset()) == memory.packed(frozenset())


def test_a_route_may_have_more_fields() -> None:
    verdict = Verdict("error_rate", "fail", "max_increase", 0.02, 0.05).as_dict() | LATER
    state = RouteState().as_dict()
    state["ejections"] |= {"judgement": {"verdicts": [verdict], "sick": ""} | LATER} | LATER
    state["stop"] |= LATER
    judgement = RouteState.from_dict(state | LATER).ejections.judgement
    assert judgement is not None
    assert judgement.verdicts == (Verdict("error_rate", "fail", "max_increase", 0.02, 0.05),)
