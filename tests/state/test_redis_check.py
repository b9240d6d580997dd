"""What is warned about when a Redis is opened, and that each warning is true."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.children import free_port
from gateway.state.base import StoreUnavailable
from gateway.state.redis import RedisStore
from tests.support.made import T0, reward
from tests.support.servers import RedisServer, redis_server
from tests.wire.test_tls import certificate

pytestmark = pytest.mark.redis
GATEWAY = "user gateway on >secret ~turnout:* &* +@all -@dangerous -@admin +config|get +acl|dryrun"


@contextmanager
def locked_server(folder: Path, default: str, gateway: str = GATEWAY) -> Iterator[tuple[RedisServer, str]]:
    """A server with users, and the address of a store on it."""
    users = folder / "users.acl"
    users.write_text(f"{default}\n{gateway}\n")
    with redis_server(folder, "--aclfile", str(users)) as server:
        yield server, f"redis://gateway:secret@127.0.0.1:{server.port}/0"


async def told(url: str) -> tuple[RedisStore, list[str]]:
    store = RedisStore(url, clock=lambda: T0)
    await store.open()
    return store, [json.loads(event.data)["code"] for event in await store.events()]


@pytest.mark.parametrize(
    ("default", "codes", "left"),
    [
        ("user default off", ["store_loses_scripts"], None),
        ("user default on >x ~other:* &* +@all", ["store_loses_scripts"], None),
        ("user default on >x ~* &* -@all +ping", ["store_loses_scripts"], None),
        ("user default off resetpass ~* &* +@all", [], 1),
        ("user default on >x ~turnout:* &* +@all", [], 1),
    ],
)
async def test_a_default_user_that_may_not_write_is_an_alarm(
    tmp_path: Path, default: str, codes: list[str], left: int | None
) -> None:
    """The last column is what is left of one acknowledged reward after a restart (Redis before redis#14545)."""
    with locked_server(tmp_path, default) as (server, url):
        store, found = await told(url)
        assert found == codes
        await store.reward([reward(1.0)])
        await store.close()
        server.kill()
        server.start()
        store, _ = await told(url)
        sums = await store.reward_sums("digits")
        await store.close()
    if left is not None:  # a later Redis may keep what it is warned about
        assert sums["v1", "correct"].count == left


async def test_a_user_of_few_rights_is_enough_and_says_what_it_can_not_see(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = "user gateway on >secret ~turnout:* &* +@all -@dangerous -@admin"
    with caplog.at_level(logging.WARNING), locked_server(tmp_path, "user default off", few) as (_, url):
        store, found = await told(url)
        assert await store.reward([reward()]) == ["accepted"]
        await store.close()
    assert found == []
    assert "+config|get +acl|dryrun" in caplog.text


async def test_eviction_is_an_alarm(tmp_path: Path) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with redis_server(tmp_path, *options) as server:
        store, found = await told(f"redis://127.0.0.1:{server.port}/0")
        await store.close()
        assert found == ["store_evicts"]
        server.send("CONFIG SET maxmemory-policy noeviction")
        other, found = await told(f"redis://127.0.0.1:{server.port}/0?prefix=b")
        await other.close()
        assert found == []


async def test_tls_checks_authority_and_host_name(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "ca", "ca", None)
    certificate(tmp_path, "server", "ca", authority)
    pem = str(tmp_path / "server.pem")
    port = free_port()
    options = ["--bind", "127.0.0.1", "127.0.0.2", "--tls-port", str(port)]
    options += ["--tls-cert-file", pem, "--tls-key-file", pem]
    options += ["--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "no"]
    with redis_server(tmp_path, *options):
        ca = f"ssl_ca_certs={tmp_path / 'ca.pem'}"
        store, _ = await told(f"rediss://localhost:{port}/0?{ca}")
        assert await store.reward([reward()]) == ["accepted"]
        await store.close()
        for refused in (f"rediss://localhost:{port}/0", f"rediss://127.0.0.2:{port}/0?{ca}"):
            with pytest.raises(StoreUnavailable, match="certificate"):
                await RedisStore(refused).open()
