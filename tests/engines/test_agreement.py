"""Units on a real Envoy, one by one: each gets the variant that Python predicts, however often shares move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import xxhash

from gateway.compile.plans import salt
from gateway.config.load import load
from gateway.engines.offers import salt_text
from gateway.state.base import Published
from gateway.state.sqlite import SqliteStore
from policies.allocation.cells import PARTS, cells
from policies.allocation.model import Allocation
from tests.engines.node import Setup, wait_for
from tests.soak.load import scale

pytestmark = pytest.mark.soak

UNITS = [f"user-{n}" for n in range(scale(3_000, 10_000))]
CONNECTIONS = 16
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 200ms}
backends: {one: {url: "http://127.0.0.1:BACKEND"}}
engines: {edge: {type: envoy, token: a-token-of-the-edge-engine}}
routes:
  digits:
    engine: edge
    match: {path: /digits}
    unit: {header: x-user-id}
    variants: {v1: {backend: one}, v2: {backend: one}, v3: {backend: one}}
    policy: {type: split, weights: WEIGHTS}
"""
RAMP = [(90, 10, 0), (70, 20, 10), (50, 10, 40)]
FRAGMENTED = [(19, 27, 54), (70, 14, 16), (12, 66, 22), (26, 69, 5), (33, 17, 50), (7, 44, 49)]
"""Shares in percent, each from those before; after these the ranges are in pieces."""


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend as small as can be."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    except asyncio.IncompleteReadError:
        writer.close()


async def assigned(port: int, units: Sequence[str]) -> list[str]:
    """The variant of each unit, over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for unit in units:
        writer.write(f"GET /digits HTTP/1.1\r\nhost: a\r\nx-user-id: {unit}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200"), head
        found.append(head.partition("x-variant: ")[2].partition("\r\n")[0])
    writer.close()
    return found


async def all_assigned(port: int) -> list[str]:
    parts = [UNITS[n::CONNECTIONS] for n in range(CONNECTIONS)]
    by_part = await asyncio.gather(*(assigned(port, part) for part in parts))
    found = [""] * len(UNITS)
    for n, variants in enumerate(by_part):
        found[n::CONNECTIONS] = variants
    return found


def weights_text(weights: Sequence[int]) -> str:
    return json.dumps({f"v{n}": weight for n, weight in enumerate(weights, 1)})


async def published(setup: Setup) -> Published:
    store = SqliteStore(setup.gateway.folder / "turnout.db")
    await store.open()
    try:
        return (await store.published())["digits"]
    finally:
        await store.close()


def predicted(setup: Setup, effect: Published) -> list[str]:
    """xxHash64 of each salted unit, modulo the parts, in the ranges that the gateway published."""
    document = load(setup.gateway.path.read_text(), source="test", env={})
    variants, shares = tuple(effect.probabilities), tuple(effect.probabilities.values())
    found = cells(Allocation(variants, shares, effect.bounds, effect.owners))
    prefix = salt_text(salt(document, "digits"))
    return [found.pick(xxhash.xxh64_intdigest(f"{prefix}{unit}".encode()) % PARTS) for unit in UNITS]


async def test_every_unit_is_where_python_says_before_and_after_ramps_and_fragmentation(
    tmp_path: Path,
) -> None:
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    config = CONFIG.replace("BACKEND", str(server.sockets[0].getsockname()[1]))
    setup = await asyncio.to_thread(Setup, tmp_path, config.replace("WEIGHTS", weights_text(RAMP[0])), "e1")
    try:
        (node,) = setup.nodes
        await asyncio.to_thread(node.wait_serving, "/digits")
        before: list[str] = []
        last: dict[str, float] = {}
        for weights in (*RAMP, *FRAGMENTED):
            setup.gateway.write(config.replace("WEIGHTS", weights_text(weights)))
            shares = {f"v{n}": weight / 100 for n, weight in enumerate(weights, 1)}
            await asyncio.to_thread(
                wait_for, lambda wanted=shares: serves(setup, wanted), f"it serves {weights}"
            )
            after, effect = await all_assigned(node.port), await published(setup)
            wrong = sum(one != other for one, other in zip(after, predicted(setup, effect), strict=True))
            assert wrong == 0, f"{wrong} of {len(UNITS)} units with {weights}"
            if before:
                moved = {pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]}
                grown = {v for v in shares if shares[v] > last[v]}
                assert all(new in grown and old not in grown for old, new in moved), moved
            before, last = after, shares
        assert len(effect.bounds) > len(effect.probabilities), "the ranges never came apart"
    finally:
        await asyncio.to_thread(setup.stop)
        server.close()


def serves(setup: Setup, wanted: dict[str, float]) -> bool:
    """Whether the node has accepted an allocation with these shares."""
    (node,), report = setup.nodes_shown(), setup.report()
    same = all(abs(report["allocation"].get(name, 0.0) - share) < 1e-9 for name, share in wanted.items())
    return same and node["state"] == "accepted" and node["epochs"]["digits"] == report["epoch"]
