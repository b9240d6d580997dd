"""docs/redis.md: a real Redis starts with its two files, and the gateway's user finds nothing to warn of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.state.redis import RedisStore
from tests.docs.reader import Reader, blocks, wait_for
from tests.support.made import T0, reward

pytestmark = pytest.mark.redis

PAGE = "docs/redis.md"


@pytest.mark.long
async def test_the_files_of_the_page_lose_nothing_and_raise_no_alarm(tmp_path: Path) -> None:
    users, configuration = blocks(PAGE, "")
    (password,) = re.findall(r"user turnout on >(\S+)", users)
    with Reader(tmp_path, "6379") as reader:
        reader.save("users.acl", users)
        reader.save("redis.conf", configuration.replace("/etc/redis", str(tmp_path)))
        url = f"redis://turnout:{password}@127.0.0.1:{reader.ports['6379']}/0"
        reported = reward()
        log = tmp_path / "redis.log"
        for run in (0, 1):
            with reader.started_apart() as server:
                server.shell(f"redis-server redis.conf --port 6379 --logfile {log} &")
                wait_for(lambda run=run: _ready(log) == run + 1, "Redis starts")  # type: ignore[misc]
                store = RedisStore(url, clock=lambda: T0)
                await store.open()
                assert [json.loads(event.data)["code"] for event in await store.events()] == []
                assert await store.reward([reported]) == ["duplicate" if run else "accepted"]
                await store.close()


def _ready(log: Path) -> int:
    return log.read_text().count("Ready to accept") if log.exists() else 0
