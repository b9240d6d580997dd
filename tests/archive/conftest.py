"""A folder and a bucket of a real S3 server to archive to, and a store with two routes over four hours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.record.events import Outcome
from gateway.state.sqlite import SqliteStore
from tests.support.made import outcome, reward, shadowed

HOUR = 472_222
"""Hours since the epoch at which the record begins."""
START = HOUR * 3600.0
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}
SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0)
server.start()
print('port', server.get_host_and_port()[1], flush=True)
import sys
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Query of the URLs of a real S3 server, which has a bucket ``lake``."""
    os.environ |= CREDENTIALS
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        port = next(int(line.split()[1]) for line in server.stdout if line.startswith("port "))
        httpx.put(f"http://127.0.0.1:{port}/lake", timeout=30).raise_for_status()
        yield f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        server.kill()


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty archive."""
    if request.param == "folder":
        return str(tmp_path / "lake")
    return f"s3://lake/{tmp_path.name}?{request.getfixturevalue('s3')}"


def decisions() -> list[Outcome]:
    """Two routes over four hours, the third of which has none."""
    return [
        outcome(
            START + hour * 3600 + 10 * k + offset,
            route=route,
            unit=k + 120 * hour,
            assigned=("v1", "v2")[k // 2 % 2],
            served="v1",
            propensity=0.5,
            fallback=bool(k // 2 % 2),
            error="backend_status" if k // 2 % 2 else "",
            request_id='ü"\n' if k == 3 else "",
        )
        for hour in (0, 1, 3)
        for k in range(120)
        for route, offset in (("digits", 0.25), ("other", 0.5))
    ]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "store.db")
    await made.open()
    rows = decisions()
    await made.append(rows, [shadowed(of=row, difference=0.5) for row in rows[::50]])
    await made.reward([reward(k % 4 / 4, of=row, worst=0.0) for k, row in enumerate(rows[:-40])])
    yield made
    await made.close()
    await asyncio.sleep(0)
