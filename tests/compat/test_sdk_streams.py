"""Streams that real SDKs read: a client that stops at the terminal event has received everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest

from tests.compat.canary import compared_or_dropped
from tests.support.processes import GatewayProcess, ModuleProcess

LINGER = {"at-once": 0.0, "after-50ms": 0.05, "after-300ms": 0.3}
"""When a server ends a stream, in seconds after its last event."""
STREAMS = 6
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
backends:
"""
ROUTE = """
  {name}:
    match: {{path: /{name}}}
    variants: {{v1: {{backend: {name}, rewrite: {{path: /v1}}}}, v2: {{backend: {name}, rewrite: {{path: /v1}}}}}}
    policy: {{type: shadow, primary: v1, shadows: {{v2: 100%}}}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(ModuleProcess("tests.compat.llm", "--linger", str(seconds)))
            for name, seconds in LINGER.items()
        }
        for server in servers.values():
            server.wait_ready()
        backends = "".join(f'  {name}: {{url: "{server.url}"}}\n' for name, server in servers.items())
        routes = "routes:" + "".join(ROUTE.format(name=name) for name in LINGER)
        folder = tmp_path_factory.mktemp("streams")
        yield stack.enter_context(GatewayProcess(folder, CONFIG + backends + routes))


def agreement(gateway: GatewayProcess, route: str, copies: int) -> dict[str, Any]:
    """The report's, once all copies are compared or dropped, as a busy machine drops some."""
    end = time.monotonic() + 60
    while True:
        found: dict[str, Any] = httpx.get(f"{gateway.url}/-/routes/{route}").json()
        if compared_or_dropped(found, "v2") >= copies or time.monotonic() > end:
            return found
        time.sleep(0.1)


def outcomes(gateway: GatewayProcess, route: str) -> list[tuple[int, str, str, bool]]:
    rows = httpx.get(f"{gateway.url}/-/outcomes", params={"route": route, "limit": 200}).json()["outcomes"]
    return [(row["status"], row["error"], row["served"], row["fallback"]) for row in rows]


@pytest.mark.parametrize("route", LINGER)
def test_streams_that_the_openai_sdk_reads_are_whole(gateway: GatewayProcess, route: str) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    url = f"{gateway.url}/{route}"
    said: set[str] = set()
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        for _ in range(STREAMS):
            stream = client.chat.completions.create(model="m", messages=messages, stream=True)
            said.add("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            for _ in range(STREAMS):
                chunks = await client.chat.completions.create(model="m", messages=messages, stream=True)
                said.add("".join([chunk.choices[0].delta.content or "" async for chunk in chunks]))

    asyncio.run(ask())
    assert len(said) == 1
    report = agreement(gateway, route, 2 * STREAMS)
    assert outcomes(gateway, route) == [(200, "", "v1", False)] * 2 * STREAMS
    assert compared_or_dropped(report, "v2") == 2 * STREAMS
    assert report["agreement"]["v2"]["rate"] == 1.0
