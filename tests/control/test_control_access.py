"""Logins, cookies, other sites' pages, and what being local is worth."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway.control.app import build
from gateway.control.session import COOKIE, LIFE
from tests.control.conftest import Client
from tests.control.harness import ROUTES, Harness, started

HERE = {"origin": "http://turnout.test", "sec-fetch-site": "same-origin"}


async def logged_in(client: Client, key: str = "reader") -> httpx.AsyncClient:
    http = client()
    answer = await http.post("/-/dashboard/login", json={"key": key}, headers=HERE)
    assert answer.status_code == 204, answer.text
    return http


async def test_a_login_is_a_cookie_that_scripts_and_other_sites_do_not_get(client: Client) -> None:
    http = client()
    assert (await http.get("/-/routes")).status_code == 401
    answer = await http.post("/-/dashboard/login", json={"key": "reader"}, headers=HERE)
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/-/", f"max-age={LIFE}"} <= attributes
    assert "secure" not in attributes
    assert "reader" not in answer.headers["set-cookie"]
    assert (await http.get("/-/routes")).status_code == 200
    assert (await http.get("/-/dashboard/session")).json() == {"id": "reader", "auth": True, "routes": None}


async def test_under_tls_the_cookie_is_secure(client: Client) -> None:
    answer = await client().post("https://turnout.test/-/dashboard/login", json={"key": "reader"})
    assert "; secure" in answer.headers["set-cookie"].lower()


async def test_the_form_leads_to_the_dashboard_and_back(client: Client) -> None:
    http = client()
    home = await http.get("/-/dashboard/")
    assert (home.status_code, home.headers["location"]) == (303, "login")
    assert 'name="key"' in (await http.get("/-/dashboard/login")).text
    wrong = await http.post("/-/dashboard/login", data={"key": "nobody"}, headers=HERE)
    assert (wrong.status_code, wrong.headers["location"]) == (303, "login?refused=unauthenticated")
    weak = await http.post("/-/dashboard/login", data={"key": "inferrer"}, headers=HERE)
    assert weak.headers["location"] == "login?refused=forbidden"
    right = await http.post("/-/dashboard/login", data={"key": " reader\n"}, headers=HERE)
    assert (right.status_code, right.headers["location"]) == (303, "./")
    page = await http.get("/-/dashboard/")
    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert (await http.post("/-/dashboard/logout", headers=HERE)).status_code == 204
    assert (await http.get("/-/routes")).status_code == 401


async def test_a_login_only_reads_and_keeps_its_routes(client: Client) -> None:
    http = await logged_in(client, "ops")
    assert (await http.get("/-/routes/shop")).status_code == 200
    for method, path in (("GET", "/-/config"), ("POST", "/-/routes/shop/rollout"), ("POST", "/-/feedback")):
        assert (await http.request(method, path, headers=HERE)).status_code == 403, path
    bound = await logged_in(client, "digits-reader")
    assert (await bound.get("/-/routes/shop")).status_code == 403


async def test_a_login_ends_with_its_time_its_key_or_its_cookie(harness: Harness, client: Client) -> None:
    http = await logged_in(client)
    harness.clock.at += LIFE - 1
    assert (await http.get("/-/routes")).status_code == 200
    harness.clock.at += 2
    assert (await http.get("/-/routes")).status_code == 401
    again = await logged_in(client)
    text = "\n".join(x for x in harness.revision().document.splitlines() if "id: reader" not in x) + "\n"
    await harness.put_config(text, "test", "*")
    assert (await again.get("/-/routes")).status_code == 401


async def test_an_altered_cookie_is_none(client: Client) -> None:
    http = await logged_in(client)
    value = http.cookies[COOKIE]
    for wrong in (value[:-3] + "AAA", value[:20], "", "é", "AAAA", "=" * 40):
        answer = await client().get("/-/routes", headers={b"cookie": f"{COOKIE}={wrong}".encode()})
        assert answer.status_code == 401, wrong


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": "http://turnout.test"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_another_sites_page_can_not_change_anything(client: Client, headers: dict[str, str]) -> None:
    http = client()
    for path in ("/-/dashboard/login", "/-/dashboard/logout"):
        answer = await http.post(path, content=b'{"key": "reader"}', headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    session = await logged_in(client)
    answer = await session.post("/-/routes/shop/rollout", json={"action": "pause"}, headers=headers)
    assert answer.json()["error"]["code"] == "forbidden"
    assert "another site" in answer.json()["error"]["message"]


async def test_a_key_in_a_header_is_no_ambient_credential(client: Client) -> None:
    """A page of another site can't know the key, so who sends it may."""
    answer = await client("ops").get("/-/config", headers={"origin": "https://tool.example"})
    assert answer.status_code == 200
    answer = await client("app").post(
        "/-/feedback", json={"items": []}, headers={"origin": "https://tool.example"}
    )
    assert answer.status_code == 200


async def test_metrics_need_the_scope_or_the_loopback_interface(client: Client) -> None:
    assert (await client().get("/-/metrics")).status_code == 401
    assert (await client("reader").get("/-/metrics")).status_code == 403
    assert (await client("scraper").get("/-/metrics")).status_code == 200
    for peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        answer = await client(peer=peer).get("/-/metrics")
        assert answer.status_code == 200, peer
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    behind_a_proxy = await client(peer="127.0.0.1").get(
        "/-/metrics", headers={"x-forwarded-for": "203.0.113.9"}
    )
    assert behind_a_proxy.status_code == 401


async def test_without_auth_all_may_read_and_only_the_machine_itself_may_steer(tmp_path: Path) -> None:
    async with started(tmp_path / "open.db", ROUTES) as harness:
        app = build(harness)

        def http(peer: str, host: str) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app=app, client=(peer, 1))
            return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")

        far, near = http("192.0.2.7", "turnout.test"), http("127.0.0.1", "localhost:8080")
        assert (await far.get("/-/routes")).status_code == 200
        assert (await far.get("/-/dashboard/")).status_code == 200
        assert (await far.get("/-/dashboard/session")).json()["auth"] is False
        assert (await far.get("/-/config")).status_code == 403
        assert (await near.get("/-/config")).status_code == 200
        assert (await near.get("/-/config", headers={"x-forwarded-for": "203.0.113.9"})).status_code == 403
        foreign = await near.post(
            "/-/routes/shop/rollout", content="{}", headers={"origin": "https://evil.example"}
        )
        assert foreign.status_code == 403
        rebound = http("127.0.0.1", "evil.example")
        assert (await rebound.get("/-/config")).status_code == 403, (
            "a name that resolves to loopback is a stranger's"
        )
        for one in (far, near, rebound):
            await one.aclose()


async def test_readiness(harness: Harness, client: Client) -> None:
    assert (await client().get("/-/readyz")).json() == {"status": "ready"}
    harness.readiness = (False, "The gateway is shutting down.")
    answer = await client().get("/-/readyz")
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "The gateway is shutting down.")
    assert "retry-after" in answer.headers
    assert (await client().get("/-/healthz")).status_code == 200
