"""Logging in over TLS in a real browser: the cookie is bound to this host, and stays with the gateway."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from tests.e2e.test_tls import Issuer
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.browser

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
tls: {cert: "@PKI@/server.pem", key: "@PKI@/server.key"}
auth:
  keys:
    - {id: ops, hash: "sha256:@HASH@", scopes: [admin]}
backends: {a: {url: "http://127.0.0.1:@BACKEND@", headers: {x-api-key: backends-own}}}
routes:
  a: {match: {path: /a}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}
"""


class Cookies(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("cookie", ""))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Cookies)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def gateway(backend: Any, tmp_path: Path) -> Iterator[GatewayProcess]:
    Issuer(tmp_path).issue("server")
    text = CONFIG.replace("@PKI@", str(tmp_path)).replace("@BACKEND@", str(backend.server_port))
    text = text.replace("@HASH@", hashlib.sha256(b"secret").hexdigest())
    with GatewayProcess(tmp_path, text, ready=False) as found:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                httpx.get(f"https://127.0.0.1:{found.port}/-/healthz", verify=False)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield found


def test_the_cookie_is_bound_to_the_host_and_no_backend_gets_it(
    browser: Browser, gateway: GatewayProcess, backend: Any
) -> None:
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    origin = f"https://localhost:{gateway.port}"
    page.goto(f"{origin}/-/dashboard/")
    page.fill("#key", "secret")
    page.check("[name=steer]")
    page.click("button[type=submit]")
    page.wait_for_url(f"{origin}/-/dashboard/")
    (cookie,) = context.cookies()
    assert cookie["name"].startswith("__Host-turnout-session-")
    assert (cookie["secure"], cookie["httpOnly"], cookie["path"]) == (True, True, "/")
    session = page.evaluate("() => fetch('/-/dashboard/session').then(r => r.json())")
    assert session["scopes"] == ["read", "steer", "config"]
    status = page.evaluate("() => fetch('/a/x', {headers: {'x-api-key': 'secret'}}).then(r => r.status)")
    assert status == 200
    assert backend.seen == [""], "the browser sends the cookie with every request to this host"
    post = """headers => fetch(
        '/-/routes/a/rollout', {method: 'POST', body: '{"action": "pause"}', headers}
    ).then(r => r.status)"""
    assert page.evaluate(post, {}) == 403
    token = {"x-turnout-csrf": session["csrf"]}
    assert page.evaluate(post, token) == 415, "a string is sent as text/plain"
    json = {"content-type": "application/json", **token}
    assert page.evaluate(post, json) == 404, "let in; the route has no rollout"
    context.close()
