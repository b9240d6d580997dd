"""A page of another site reports rewards from a real browser: with a token of its server's, and no key in the page."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from benchmarks.children import free_ports
from tests.e2e.common import wait_for
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess

pytestmark = pytest.mark.browser

HASH = hashlib.sha256(b"app").hexdigest()
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
@AUTH@
feedback: {allow_origins: ["http://127.0.0.1:@APP@"]}
metrics: {liked: {type: boolean}}
backends: {a: {url: "http://127.0.0.1:@APP@"}}
routes:
  a: {match: {path: /a}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}
  b: {match: {path: /b}, variants: {v1: {backend: a}}, policy: {type: single, variant: v1}}
"""
AUTH = f'auth: {{keys: [{{id: app, hash: "sha256:{HASH}", scopes: [infer, feedback]}}]}}'
REPORT = """async ([url, item, token]) => {
  const headers = {'content-type': 'application/json'};
  if (token) headers.authorization = `Bearer ${token}`;
  try {
    const r = await fetch(url, {method: 'POST', headers, body: JSON.stringify(item)});
    return [r.status, await r.json()];
  } catch (error) { return ['failed', String(error)]; }
}"""


class App(Handler):
    """The page's own server, and the model behind the gateway."""

    def do_GET(self) -> None:
        self.respond(b"hi", kind="text/html")


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """Of the page that may report, and of another one."""
    found = free_ports(2)
    servers = [HttpServer(App, port) for port in found]
    yield found[0], found[1]
    for server in servers:
        server.stop()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module", params=["auth", "open"])
def gateway(
    request: pytest.FixtureRequest, ports: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, bool]]:
    keys = request.param == "auth"
    folder: Path = tmp_path_factory.mktemp(request.param)
    text = CONFIG.replace("@APP@", str(ports[0])).replace("@AUTH@", AUTH if keys else "")
    with GatewayProcess(folder, text) as found:
        yield found, keys


def decided(gateway: GatewayProcess, path: str = "/a") -> dict[str, Any]:
    """A reward about a fresh decision."""
    identity = httpx.get(f"{gateway.url}{path}", headers={"x-api-key": "app"}).headers["x-decision-id"]
    return {"decision_id": identity, "metric": "liked", "value": True}


def token(gateway: GatewayProcess, **wanted: Any) -> httpx.Response:
    return httpx.post(f"{gateway.url}/-/feedback/token", json=wanted, headers={"x-api-key": "app"})


def report(page: Page, gateway: GatewayProcess, item: dict[str, Any], bearer: str = "") -> Any:
    return page.evaluate(REPORT, [f"{gateway.url}/-/feedback", item, bearer])


def test_a_listed_page_reports_and_another_does_not(
    page: Page, gateway: tuple[GatewayProcess, bool], ports: tuple[int, int]
) -> None:
    process, keys = gateway
    bearer = token(process).json()["token"] if keys else ""
    page.goto(f"http://127.0.0.1:{ports[0]}/")
    item = decided(process)
    assert report(page, process, item, bearer)[1]["accepted"] == 1
    # The page can read why something was refused.
    status, body = report(page, process, {**item, "metric": "lyked"}, bearer)
    assert (status, body["rejected"][0]["code"]) == (200, "unknown_metric")
    page.goto(f"http://127.0.0.1:{ports[1]}/")
    assert report(page, process, decided(process), bearer)[0] == "failed"


def test_a_token_is_good_for_little(
    page: Page, gateway: tuple[GatewayProcess, bool], ports: tuple[int, int]
) -> None:
    process, keys = gateway
    if not keys:
        assert "No token is needed" in token(process).json()["error"]["message"]
        return
    page.goto(f"http://127.0.0.1:{ports[0]}/")
    status, body = report(page, process, decided(process))
    assert (status, body["error"]["code"]) == (401, "unauthenticated"), "a page can read this too"
    bound = token(process, routes=["a"], ttl=60).json()["token"]
    assert report(page, process, decided(process), bound)[1]["accepted"] == 1
    assert report(page, process, decided(process, "/b"), bound)[1]["rejected"][0]["code"] == "forbidden"
    bearer = {"authorization": f"Bearer {bound}"}
    for method, path in (("GET", "/a"), ("GET", "/-/routes"), ("POST", "/-/feedback/token")):
        assert httpx.request(method, f"{process.url}{path}", headers=bearer).status_code in (401, 403), path
    altered = bound[:-4] + "AAAA"
    assert report(page, process, decided(process), altered)[0] == 401
    assert token(process, routes=["none"]).status_code == 404
    assert token(process, ttl=0).status_code == 422
    short = token(process, ttl=1).json()["token"]
    wait_for(lambda: report(page, process, decided(process), short)[0] == 401)


def test_a_token_goes_with_its_key(
    page: Page, gateway: tuple[GatewayProcess, bool], ports: tuple[int, int]
) -> None:
    process, keys = gateway
    if not keys:
        return
    bearer = {"authorization": f"Bearer {token(process).json()['token']}"}
    item = decided(process)
    assert httpx.post(f"{process.url}/-/feedback", json=item, headers=bearer).status_code == 200
    before = process.path.read_text()
    process.path.write_text(before.replace(HASH, hashlib.sha256(b"other").hexdigest()))
    try:
        wait_for(
            lambda: httpx.post(f"{process.url}/-/feedback", json=item, headers=bearer).status_code == 401
        )
    finally:
        process.path.write_text(before)
