"""HTTP/2 without sockets: `benchmarks.http2_feed` is served, and what a request leaves behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from benchmarks.children import free_ports
from benchmarks.http2 import BODY, configure
from benchmarks.http2_feed import DEPTH, Http2Feed
from gateway.config.source import Source
from gateway.server import compose


@pytest.mark.parametrize("grpc", [False, True])
async def test_a_served_request_leaves_nothing_to_the_garbage_collector(
    tmp_path: Path, *, grpc: bool
) -> None:
    own, upstream = free_ports(2)
    gateway = await compose(Source(configure(tmp_path, own, upstream, record=True)))
    try:
        feed = Http2Feed(gateway, grpc=grpc)
        await feed.serve(feed.requests(DEPTH), feed.responses(DEPTH))
        assert feed.client.written.count(BODY) == DEPTH
        requests, responses = feed.requests(DEPTH), feed.responses(DEPTH)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        await feed.serve(requests, responses)
        gc.collect()
        left = [type(item).__name__ for item in gc.garbage if type(item).__module__.startswith("gateway.")]
        assert left == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        await gateway.stop()
