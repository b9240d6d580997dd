"""A gateway with the default configuration against real pages in a real browser on the same machine.

Chromium resolves evil.example to loopback, as after a DNS rebinding; another origin is a server of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Playwright

from tests.browser.conftest import FLAGS, chromium
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.browser

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics: {correct: {type: boolean}}
backends: {a: {url: "http://127.0.0.1:@BACKEND@"}}
routes:
  a: {match: {path: /a}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}
"""
FETCH = """async ([url, options]) => {
  try { const r = await fetch(url, options); return r.type === 'opaque' ? 'opaque' : r.status; }
  catch (error) { return 'failed'; }
}"""
SOCKET = """url => new Promise(done => {
  const socket = new WebSocket(url);
  socket.onopen = () => done('open');
  socket.onerror = () => done('failed');
})"""


class Counting(Handler):
    """Answers everything, upgrades too, and counts what it got."""

    server: Any

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        self.content()
        self.respond(b"hi", kind="text/html")

    do_POST = do_OPTIONS = do_GET


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    server: Any = HttpServer(Counting)
    server.seen = []
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(backend: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder: Path = tmp_path_factory.mktemp("open")
    with GatewayProcess(folder, CONFIG.replace("@BACKEND@", str(backend.server_port))) as found:
        yield found


@pytest.fixture(scope="module")
def rebinding(driver: Playwright) -> Iterator[Browser]:
    rules = "--host-resolver-rules=MAP *.example 127.0.0.1"
    found = driver.chromium.launch(executable_path=chromium(), args=[*FLAGS, rules])
    yield found
    found.close()


@pytest.fixture
def page(rebinding: Browser) -> Iterator[Page]:
    context = rebinding.new_context()
    yield context.new_page()
    context.close()


def fetch(page: Page, url: str, **options: Any) -> Any:
    return page.evaluate(FETCH, [url, options])


def test_a_rebound_page_takes_nothing_over(page: Page, gateway: GatewayProcess, backend: Any) -> None:
    # Whatever is answered, the document is of this origin, as the attacker's own page before the rebinding.
    page.goto(f"http://evil.example:{gateway.port}/attack")
    text = httpx.get(f"{gateway.url}/-/config").text
    key = {"authorization": "Bearer x"}
    planted = text + "\n# planted\n"
    backend.seen.clear()
    for path in ("/-/config", "/-/outcomes", "/-/routes", "/-/metrics", "/-/events/recent"):
        assert fetch(page, path) == 403, path
        assert fetch(page, path, headers=key) == 403, path
    put = {**key, "if-match": "*"}
    assert fetch(page, "/-/config", method="PUT", headers=put, body=planted) == 403
    assert fetch(page, "/a/x") == 403
    assert fetch(page, "/a/x", method="POST", body="{}", headers={"x-variant": "v1"}) == 403
    assert fetch(page, "/-/feedback", method="POST", body='{"items": []}') == 403
    assert page.evaluate(SOCKET, f"ws://evil.example:{gateway.port}/a/x") == "failed"
    assert httpx.get(f"{gateway.url}/-/config").text == text
    assert not backend.seen


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_reaches_no_backend(
    page: Page, gateway: GatewayProcess, backend: Any, name: str
) -> None:
    """Posts that need no preflight, sockets, pictures and forms are what a page may send anywhere."""
    page.goto(f"http://localhost:{backend.server_port}/attack")
    ours = f"http://{name}:{gateway.port}"
    backend.seen.clear()
    plain = {"method": "POST", "mode": "no-cors", "body": "{}"}
    assert fetch(page, f"{ours}/a/post", **plain) == "opaque"
    assert fetch(page, f"{ours}/a/get", mode="no-cors") == "opaque"
    assert (
        fetch(page, f"{ours}/a/json", method="POST", headers={"content-type": "application/json"}) == "failed"
    )
    assert page.evaluate(SOCKET, f"ws://{name}:{gateway.port}/a/socket") == "failed"
    with page.expect_response(f"{ours}/a/form") as answer:
        page.evaluate(
            "url => { const f = document.createElement('form'); f.method = 'post'; f.action = url;"
            " document.body.append(f); f.submit(); }",
            f"{ours}/a/form",
        )
    assert answer.value.status == 403
    assert not [line for line in backend.seen if not line.startswith("GET /favicon")]


HIDDEN = """base => {
  for (const [tag, name] of [['iframe', 'src'], ['object', 'data']]) {
    const part = document.createElement(tag);
    part[name] = base + tag;
    document.body.append(part);
  }
  const rules = document.createElement('script');
  rules.type = 'speculationrules';
  const load = name => [{source: 'list', urls: [base + name]}];
  rules.textContent = JSON.stringify({prefetch: load('prefetch'), prerender: load('prerender')});
  document.head.append(rules);
}"""


def refused(gateway: GatewayProcess) -> float:
    found = re.search(
        r'turnout_refusals_total\{code="forbidden"\} (\S+)', httpx.get(f"{gateway.url}/-/metrics").text
    )
    return float(found[1]) if found else 0.0


def test_a_page_of_another_origin_loads_nothing_unseen(
    page: Page, gateway: GatewayProcess, backend: Any
) -> None:
    """S27: frames, and what speculation rules load ahead of time, reached the routes and counted as decisions."""
    page.goto(f"http://localhost:{backend.server_port}/attack")
    backend.seen.clear()
    before, end = refused(gateway), time.monotonic() + 60
    page.evaluate(HIDDEN, f"http://127.0.0.1:{gateway.port}/a/hidden-")
    while refused(gateway) < before + 3:  # a browser may leave one of the four out
        assert not [line for line in backend.seen if "hidden" in line]
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    assert not [line for line in backend.seen if "hidden" in line]


def test_the_gateways_own_page_may_post(page: Page, gateway: GatewayProcess, backend: Any) -> None:
    for name in ("127.0.0.1", "localhost"):
        page.goto(f"http://{name}:{gateway.port}/-/dashboard/")
        assert fetch(page, "/a/x", method="POST", body="{}") == 200
        assert fetch(page, "/-/config") == 200
