"""The rate of a key over several workers and replicas, at their sockets."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

import httpx
import pytest

from tests.support.processes import GatewayProcess
from tests.support.servers import redis_server

HASH = hashlib.sha256(b"secret").hexdigest()
CONFIG = f"""
listen: 127.0.0.1:@PORT@
store: @STORE@
record: {{spool: "@DIR@/spool"}}
auth: {{keys: [{{id: app, hash: "sha256:{HASH}", scopes: [infer, read], rate: @RATE@}}]}}
backends: {{a: {{url: "http://127.0.0.1:9"}}}}
routes:
  fixed:
    match: {{path: /fixed}}
    variants: {{v1: {{backend: a}}}}
    policy: {{type: single, variant: v1}}
    fallback: [{{respond: {{status: 200, text: here}}}}]
"""


def passed(urls: list[str], path: str, tries: int) -> int:
    """How many of ``tries`` requests at once, each on a connection of its own, are let through."""

    async def ask() -> list[int]:
        async def one(url: str) -> int:
            async with httpx.AsyncClient(headers={"x-api-key": "secret"}) as client:
                return (await client.get(url + path)).status_code

        return await asyncio.gather(*(one(urls[k % len(urls)]) for k in range(tries)))

    found = asyncio.run(ask())
    assert set(found) <= {200, 429}
    return found.count(200)


@pytest.mark.parametrize("path", ["/fixed", "/-/routes"])
def test_workers_divide_the_rate(tmp_path: Path, path: str) -> None:
    """S16: each had the whole rate, so three workers let nine of forty through where three were allowed."""
    text = CONFIG.replace("@STORE@", "sqlite:///@DIR@/t.db").replace("@RATE@", "3/s")
    with GatewayProcess(tmp_path, text, "--workers", "3") as gateway:
        began = time.monotonic()
        count = passed([gateway.url], path, 40)
        assert 1 <= count <= 3 + 3 * (time.monotonic() - began)


@pytest.mark.redis
def test_replicas_share_one_bucket(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        text = CONFIG.replace("@STORE@", f"redis://127.0.0.1:{server.port}/0").replace("@RATE@", "10/s")
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        with GatewayProcess(folders[0], text) as one, GatewayProcess(folders[1], text) as two:
            urls, began, count = [one.url, two.url], time.monotonic(), 0
            while time.monotonic() - began < 4:
                count += passed(urls, "/fixed", 8)
            took = time.monotonic() - began
    assert 10 * took * 0.5 < count <= 10 * took + 2 * 10, (count, took)
