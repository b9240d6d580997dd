"""The end of a process whose connections, to clients and to clusters, and whose spool fail to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from gateway.config.source import Source
from gateway.dataplane.shadow.dispatcher import ShadowDispatcher
from gateway.server import compose
from gateway.state.base import StoreUnavailable


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
    await gateway.stop()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await gateway.store.save("made", "", "{}", expected=0)
