"""docs/engines.md: each way to start a node, run as it stands, on other ports and folders."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docs.reader import Reader, blocks, responds, wait_for
from tests.engines.haproxy_node import NEEDS_HAPROXY
from tests.engines.node import Backend

pytestmark = pytest.mark.slow

CONFIGURATION = """
listen: 127.0.0.1:8080
backends: {one: {url: "URL1"}, two: {url: "URL2"}}
engines: {edge: {type: TYPE, token: a-token-of-the-edge-engine, nodes: ["edge-*"]}}
routes:
  predict:
    engine: edge
    match: {path: /predict}
    unit: {header: x-user-id}
    variants: {v1: {backend: one}, v2: {backend: two}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
"""
WAYS = ["envoy", "haproxy", "envoy with an agent"]


@pytest.fixture
def sockets() -> Iterator[Path]:
    """The path of a socket has at most 107 bytes, fewer than the folders of tests."""
    folder = Path(tempfile.mkdtemp(prefix="turnout-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_node_starts_as_the_page_says(way: str, tmp_path: Path, sockets: Path) -> None:
    if way == "haproxy" and NEEDS_HAPROXY.args[0]:
        pytest.skip(NEEDS_HAPROXY.kwargs["reason"])
    commands = blocks("docs/engines.md", "sh")
    assert len(commands) == len(WAYS)
    backends = [Backend("one"), Backend("two")]
    configuration = CONFIGURATION.replace("TYPE", way.split()[0])
    for number, backend in enumerate(backends, 1):
        configuration = configuration.replace(f"URL{number}", backend.url)
    with Reader(tmp_path, "8000", "9901") as reader:
        reader.save("turnout.yaml", configuration)
        reader.shell("turnout run &")
        reader.wait_ready()
        with reader.started_apart() as node:
            node.shell(_here(commands[WAYS.index(way)], reader, sockets))
            edge = f"{reader.url('8000')}/predict"
            wait_for(lambda: responds(edge) and httpx.get(edge).status_code == 200, "the node serves")
            sent = [httpx.post(edge, headers={"x-user-id": f"u{n}"}) for n in range(40)]
            assert {each.headers["x-variant"] for each in sent} == {"v1", "v2"}
            assert all(each.headers["x-decision-id"] for each in sent)
            wait_for(lambda: "nodes: 1 accepted" in reader.shell("turnout status"), "the node is listed")
    for backend in backends:
        backend.stop()


def _here(commands: str, reader: Reader, sockets: Path) -> str:
    """The proxy, which is last, in the background."""
    text = f"{commands.rstrip()} &"
    text = text.replace("envoy -c", f"envoy --base-id {reader.ports['8000']} -c")
    text = text.replace("http://turnout:8080", reader.url()).replace("0.0.0.0:8000", "127.0.0.1:8000")
    return text.replace("/etc/haproxy/", "").replace("/var/lib/turnout", str(sockets))
