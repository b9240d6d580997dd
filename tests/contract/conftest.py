"""Every store there is, empty and open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.state import open_store
from gateway.state.store import Store
from tests.support.servers import RedisServer, redis_cluster, redis_server


@pytest.fixture(scope="session")
def redis_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.fixture
def redis_url(redis_node: RedisServer) -> str:
    redis_node.send("FLUSHALL")
    return f"redis://127.0.0.1:{redis_node.port}/0"


@pytest.fixture
def cluster_url(redis_cluster_node: RedisServer) -> str:
    redis_cluster_node.send("FLUSHALL")
    return f"redis+cluster://127.0.0.1:{redis_cluster_node.port}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(
    params=[
        "sqlite_url",
        pytest.param("redis_url", marks=pytest.mark.redis),
        pytest.param("cluster_url", marks=(pytest.mark.redis, pytest.mark.slow)),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty store."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    made = open_store(url)
    await made.open()
    yield made
    await made.close()
