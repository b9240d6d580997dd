"""The end of a process whose connections, to clients and to clusters, and whose spool fail to end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time
from typing import Any, cast

import pytest

from gateway.config.source import Source
from gateway.dataplane.shadow.dispatcher import ShadowDispatcher
from gateway.loops.allocation import LAGGING_LEASE, LEASE
from gateway.server import compose
from gateway.state.base import StoreUnavailable
from gateway.state.sqlite import SqliteStore


class Broken:
    """A client's connection."""

    def end(self) -> None:
        raise RuntimeError("a fault of ours")


async def test_the_record_is_written_and_the_store_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "turnout.yaml"
    path.write_text(f"store: sqlite:///{tmp_path}/turnout.db\n")
    gateway = await compose(Source(path))

    async def fails() -> None:
        raise OSError("the connection is gone")

    gateway.worker.connections.add(cast("Any", Broken()))
    shadow = gateway.worker.shadow
    assert isinstance(shadow, ShadowDispatcher)
    shadow._running.add(cast("Any", Broken()))  # its end fails, too
    monkeypatch.setattr(gateway.spool, "close", fails)  # its disk does
    monkeypatch.setattr(gateway.api.fleet, "close", fails)
    monkeypatch.setattr(gateway.usage, "flush", fails)
    rest, written = gateway.recorder.close, list[int]()

    async def slowly() -> None:
        await asyncio.sleep(0.1)
        written.append(await gateway.store.changed())
        await rest()

    monkeypatch.setattr(gateway.recorder, "close", slowly)
    for lease in LEASE, LAGGING_LEASE:
        assert await gateway.store.lease(lease, gateway.owner, ttl=60.0, now=time())
    await gateway.stop()
    assert len(written) == 1, "the store is open until the record is written"
    store = SqliteStore(tmp_path / "turnout.db")
    await store.open()
    free = [await store.lease(lease, "the next", ttl=60.0, now=time()) for lease in (LEASE, LAGGING_LEASE)]
    await store.close()
    assert all(free), "the next leads at once"
    with pytest.raises(StoreUnavailable, match="is closed"):
        await gateway.store.save("made", "", "{}", expected=0)
