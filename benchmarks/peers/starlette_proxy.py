"""The proxy that one writes in Python in an afternoon: Starlette in front, httpx behind."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_STABLE = os.environ.get("BACKEND_A", "")
_CANARY = os.environ.get("BACKEND_B", "")
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"})


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=512, keepalive_expiry=3600)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
        app.state.client = client
        yield


async def _proxy(request: Request) -> Response:
    cluster = _CANARY if random.random() < 0.1 else _STABLE
    onward = httpx.Request(
        request.method,
        f"http://127.0.0.1:{cluster}{request.url.path}",
        params=request.query_params,
        headers=[(name, value) for name, value in request.headers.raw if name.decode() not in _HOP],
        content=request.stream() if request.method == "POST" else None,
    )
    answer = await request.app.state.client.send(onward, stream=True)
    relayed = StreamingResponse(
        answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose)
    )
    relayed.raw_headers = [(n.lower(), v) for n, v in answer.headers.raw if n.lower().decode() not in _HOP]
    return relayed


app = Starlette(routes=[Route("/{path:path}", _proxy, methods=["GET", "POST"])], lifespan=_lifespan)

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=3600,
        backlog=4096,
    )
