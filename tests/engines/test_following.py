"""What an agent does when its own disk is full: it says so once, and holds nothing for taken."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.engines.following import Follower, write
from gateway.engines.haproxy.agent import HaproxyFollower, Refused
from gateway.engines.haproxy.bootstrap import Node
from gateway.engines.haproxy.rings import Rings


class FullDisk(Follower):
    """Has no room for a file."""

    async def take(self, version: str, body: bytes) -> str:
        raise OSError(28, "No space left on device")


async def test_a_full_disk_is_logged_once_a_version(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    follower = FullDisk("routes", {"id": "e1"}, httpx.AsyncClient())
    for version in ("1", "1", "1", "2", "2"):
        await follower.offer(version, b"")
        assert "cannot write its files" in follower.refused
    assert len(caplog.records) == 2


def test_no_other_user_opens_a_file_before_or_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has opened it reads what is written later."""
    modes = list[int]()
    left = tmp_path / ".ranges.map.new"
    left.write_bytes(b"of an earlier build")
    left.chmod(0o644)

    def watched(name: str) -> None:
        call = getattr(Path, name)

        def watch(path: Path, *args: Any) -> Any:
            result = call(path, *args)
            modes.append(path.stat().st_mode & 0o777)
            return result

        monkeypatch.setattr(Path, name, watch)

    for name in ("touch", "write_bytes"):
        watched(name)
    with left.open("rb") as opened:
        write({tmp_path / "ranges.map": b"a key"})
        assert modes == [0o600, 0o600]
        assert opened.read() == b"of an earlier build"


class Torn(HaproxyFollower):
    """HAProxy refuses what it is offered, and the disk is full when the last good files are restored."""

    writes = 0

    async def _apply(self, version: str, ranges: dict[str, str]) -> None:
        raise Refused("no")

    def _write(self, files: dict[str, str]) -> None:
        self.writes += 1
        if self.writes > 1:
            raise OSError(28, "No space left on device")


async def test_ranges_of_a_refused_version_are_forgotten_though_the_disk_is_full(tmp_path: Path) -> None:
    node = Node("edge", "h1", "t", "http://127.0.0.1:1", str(tmp_path), None)
    async with asyncio.TaskGroup() as group:
        rings = Rings(tmp_path, lambda *_: None, lambda *_: None, asyncio.Event(), group)
    follower = Torn(node, httpx.AsyncClient(), rings)
    follower._live = {"digits": "0 v1"}
    body = {"resources": [{"ranges": {}, "files": {}, "config": "", "config_version": "2"}]}
    with pytest.raises(OSError, match="No space"):
        await follower.take("2", json.dumps(body).encode())
    assert follower._live == {}
