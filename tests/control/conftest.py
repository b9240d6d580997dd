from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from gateway.control import app as app_module
from gateway.control.app import ControlApp
from tests.support.harness import Harness, started


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A context over a real store, with keys of every kind."""
    async with started(tmp_path / "turnout.db") as found:
        yield found


@pytest.fixture
def app(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> ControlApp:
    monkeypatch.setattr(app_module, "REFUSED_POLL_S", 0.0)
    return ControlApp(harness)


Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def client(app: ControlApp) -> AsyncIterator[Client]:
    """Makes clients of the application: `client("ops")` sends the key of that id."""
    made: list[httpx.AsyncClient] = []
    numbers = itertools.count(1)

    def make(key: str | None = None, *, peer: str = "192.0.2.7", **more: object) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=app, client=(peer, next(numbers)), raise_app_exceptions=False)
        headers = {"x-api-key": key} if key is not None else {}
        made.append(httpx.AsyncClient(transport=transport, base_url="http://turnout.test", headers=headers))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()
