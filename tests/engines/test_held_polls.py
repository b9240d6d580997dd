"""What happens to a poll while it is held: the clock is set back, or an edit takes its engine away."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.load import load
from gateway.errors import TurnoutError
from tests.engines.test_fleet import CONFIG, DAY_S, World, held


async def test_a_clock_that_is_set_back_holds_no_poll() -> None:
    world = World()
    has = (await world.ask("routes")).version
    task = world.ask("routes", has)
    assert await held(task)
    world.now -= DAY_S
    world.publish(0.1)
    assert (await asyncio.wait_for(task, 60)).version != has


@pytest.mark.parametrize("other", ["engines: {}", "{type: kubernetes, token: a-token-of-the-edge-engine}"])
async def test_a_poll_of_an_engine_that_an_edit_takes_away_is_refused(other: str) -> None:
    world = World()
    has = (await world.ask("routes")).version
    task = world.ask("routes", has)
    assert await held(task)
    own, _, _ = CONFIG.partition("backends:")
    made = other if other.startswith("engines") else f"engines: {{edge: {other}}}"
    world.document = load(
        CONFIG.replace(own.strip(), made).replace("    engine: edge\n", ""), source="test", env={}
    )
    world.fleet.wake()
    with pytest.raises(TurnoutError, match="has no node"):
        await task


async def test_an_envoy_whose_engine_becomes_one_of_haproxy_is_refused() -> None:
    world = World()
    has = (await world.ask("clusters")).version
    task = world.ask("clusters", has)
    assert await held(task)
    world.edit("type: envoy", "type: haproxy")
    with pytest.raises(TurnoutError, match="has no clusters"):
        await task
