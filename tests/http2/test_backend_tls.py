"""HTTP/2 to backends over TLS: agreed on by ALPN, or HTTP/1.1 for https, or an error that says so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from benchmarks.children import free_port
from tests.http2.backend import Http2Backend
from tests.wire.rig import Rig, Tls
from tests.wire.test_tls import contexts

BACKEND = Http2Backend(port=free_port())


def with_alpn(folder: Path) -> Tls:
    tls = contexts(folder)
    tls.gateway.set_alpn_protocols(["h2", "http/1.1"])  # serves the HTTP/2 backend here
    return Tls(None, tls.backend, tls.gateway)  # type: ignore[arg-type]


RIG = {
    "tls": with_alpn,
    "backends": f"""\
  modern: {{url: "h2://127.0.0.1:{BACKEND.port}", ejection: null, tls: {{ca: FOLDER/ca.pem}}}}
  old: {{url: "h2://127.0.0.1:PORT", ejection: null, tls: {{ca: FOLDER/ca.pem}}}}
  either: {{url: "https://127.0.0.1:{BACKEND.port}", ejection: null, tls: {{ca: FOLDER/ca.pem}}}}
  lesser: {{url: "https://127.0.0.1:PORT", ejection: null, tls: {{ca: FOLDER/ca.pem}}}}
  forced:
    {{url: "https://127.0.0.1:{BACKEND.port}", alpn: false, ejection: null, tls: {{ca: FOLDER/ca.pem}}}}
  distrusted: {{url: "h2://127.0.0.1:{BACKEND.port}", ejection: null}}
""",
    "routes": "".join(
        f"""\
  {name}:
    match: {{path: /{name}}}
    variants: {{v1: {{backend: {name}}}}}
    policy: {{type: single, variant: v1}}
    retry: {{attempts: 1}}
"""
        for name in ("modern", "old", "either", "lesser", "forced", "distrusted")
    ),
}


@pytest.fixture(scope="module")
def started(shared_rig: Rig) -> Iterator[Http2Backend]:
    assert shared_rig.tls is not None
    shared_rig.run(BACKEND.start(shared_rig.tls.client))
    yield BACKEND
    shared_rig.run(BACKEND.stop())


def ask(rig: Rig, path: bytes) -> tuple[int, bytes]:
    with rig.client() as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody" % path)
        found = client.answer()
        return found.status, found.body


@pytest.mark.parametrize("path", [b"/modern", b"/either"])
def test_requests_share_one_secured_connection(rig: Rig, started: Http2Backend, path: bytes) -> None:
    rig.disconnect(started)
    for _ in range(3):
        assert ask(rig, path) == (200, b"body")
    assert len(started.connections) == 1
    fields = dict(started.requests[0].fields)
    assert (fields[b":scheme"], fields[b":path"]) == (b"https", path)


def test_https_is_http11_if_the_backend_does_not_agree(rig: Rig, started: Http2Backend) -> None:
    rig.call(rig.b.reset)
    with ThreadPoolExecutor(4) as pool:  # the first requests wait for one handshake together
        statuses = [status for status, _ in pool.map(partial(ask, rig), [b"/lesser"] * 8)]
    assert statuses == [200] * 8
    assert [request.method for request in rig.b.requests] == [b"POST"] * 8


@pytest.mark.parametrize("path", [b"/either", b"/forced"])
def test_a_websocket_is_http11_whatever_the_backend_agrees_on(
    rig: Rig, started: Http2Backend, path: bytes
) -> None:
    rig.disconnect(started)
    if path == b"/either":
        assert ask(rig, path)[0] == 200
    with rig.client() as client:
        client.send(b"GET %b HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" % path)
        assert client.answer().status == 101
        client.send(b"frame")
        assert client.until(b"frame") is not None  # raises if it does not come
    assert [data.split(b" ")[1] for data in started.upgrades] == [path]


@pytest.mark.parametrize("path", [b"/old", b"/distrusted"])
def test_a_backend_without_http2_or_without_our_trust_is_a_tls_error(
    rig: Rig, started: Http2Backend, path: bytes
) -> None:
    rig.disconnect(started)
    status, body = ask(rig, path)
    assert status == 502
    assert b'"backend_tls"' in body
    assert not started.requests
