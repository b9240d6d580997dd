"""Logins, cookies, other sites' pages, and what being local is worth."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from gateway.control.app import ControlApp
from gateway.control.gateway_api import Outage
from gateway.control.login_limit import client_of
from gateway.control.session import CSRF, SESSION_LIFE_S, STEER_LIFE_S
from gateway.state.history import with_trails
from tests.control.conftest import Client
from tests.support.harness import ROUTES, Harness, auth, started

HERE = {"origin": "http://turnout.test", "sec-fetch-site": "same-origin"}


async def logged_in(client: Client, key: str = "reader", *, steer: bool = False) -> httpx.AsyncClient:
    http = client()
    answer = await http.post("/-/dashboard/login", json={"key": key, "steer": steer}, headers=HERE)
    assert answer.status_code == 204, answer.text
    return http


async def test_a_login_is_a_cookie_that_scripts_and_other_sites_do_not_get(client: Client) -> None:
    http = client()
    assert (await http.get("/-/routes")).status_code == 401
    answer = await http.post("/-/dashboard/login", json={"key": "reader"}, headers=HERE)
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/-/", f"max-age={SESSION_LIFE_S}"} <= attributes
    assert "secure" not in attributes
    assert "reader" not in answer.headers["set-cookie"]
    assert (await http.get("/-/routes")).status_code == 200
    assert (await http.get("/-/dashboard/session")).json() == {
        "id": "reader",
        "auth": True,
        "routes": None,
        "scopes": ["read"],
        "csrf": (await http.get("/-/dashboard/session")).json()["csrf"],
        "steer_until": None,
    }


async def test_under_tls_the_cookie_is_secure(client: Client) -> None:
    answer = await client().post("https://turnout.test/-/dashboard/login", json={"key": "reader"})
    assert "; secure" in answer.headers["set-cookie"].lower()
    assert answer.headers["set-cookie"].startswith("__Host-turnout-session-")
    assert "; path=/;" in answer.headers["set-cookie"].lower()


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


async def test_a_login_that_may_steer_does_so_for_a_quarter_of_an_hour(
    harness: Harness, client: Client
) -> None:
    harness.rollouts["shop"] = {"state": "running", "weight": 0.1}
    http = await logged_in(client, "ops", steer=True)
    shown = (await http.get("/-/dashboard/session")).json()
    assert shown["scopes"] == ["read", "steer", "config"]
    assert shown["steer_until"] == harness.clock.at + STEER_LIFE_S

    async def pause(**headers: str) -> int:
        body = {"action": "pause"}
        return (await http.post("/-/routes/shop/rollout", json=body, headers=headers)).status_code

    token = {CSRF: shown["csrf"]}
    assert await pause(**HERE, **token) == 200
    assert await pause(**HERE) == 403, "without the token"
    assert await pause(**HERE, **{CSRF: "0" * 64}) == 403
    assert await pause(**token) == 403, "a browser says where a request comes from"
    assert await pause(**token, origin="http://turnout.test:81") == 403, "another port is another origin"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""):
        assert await pause(**HERE, **token, **{"content-type": kind}) == 415, "what a form can send"
    assert await pause(**HERE, **token, **{"content-type": "application/json; charset=utf-8"}) == 200
    harness.clock.at += STEER_LIFE_S - 1
    assert await pause(**HERE, **token) == 200
    harness.clock.at += STEER_LIFE_S - 1
    assert await pause(**HERE, **token) == 200, "each change prolongs it"
    harness.clock.at += STEER_LIFE_S
    assert await pause(**HERE, **token) == 403
    assert (await http.get("/-/routes")).status_code == 200, "it looks on"


async def test_the_trail_says_who_steered_from_where_and_why(harness: Harness, client: Client) -> None:
    harness.rollouts["shop"] = {"state": "running", "weight": 0.1}
    http = await logged_in(client, "ops", steer=True)
    token = {CSRF: (await http.get("/-/dashboard/session")).json()["csrf"]}
    path, body = "/-/routes/shop/rollout", {"action": "pause", "reason": " a bad feeling "}
    assert (await http.post(path, json=body, headers={**HERE, **token})).status_code == 200
    assert (await http.post(path, json=body, headers=HERE)).status_code == 403
    assert (await client("pilot").post(path, json={"action": "resume"})).status_code == 200
    forged = {"action": "resume", "reason": "ok\n2026-11-29 INFO turnout.rollout: promoted"}
    assert (await client("pilot").post(path, json=forged)).status_code == 422, "the log quotes it"
    assert (await client("reader").post(path, json={"action": "resume"})).status_code == 403

    async def trail(key: str) -> list[dict[str, Any]]:
        events = (await client(key).get("/-/events/recent")).json()["events"]
        return [event["data"] for event in events if event["kind"] == "steered"]

    by_login, by_key = await trail("pilot")
    assert len(by_login.pop("session")) == 8
    where = {"address": "192.0.2.7", "weight": None}
    assert by_login == {"action": "pause", "reason": "a bad feeling", "by": "ops", **where}
    assert by_key == {"action": "resume", "reason": "", "by": "pilot", "session": "", **where}
    assert await trail("reader") == [], "addresses of people are not for every reader"
    for key in ("pilot", "reader"):
        steps = (await client(key).get("/-/routes/shop/history")).text
        assert ("192.0.2.7" in steps) is (key == "pilot")


async def test_the_history_has_each_steering_once(harness: Harness, client: Client) -> None:
    harness.rollouts["shop"] = {"state": "running", "weight": 0.1}
    path = "/-/routes/shop/rollout"
    for action in ("pause", "resume"):
        assert (await client("pilot").post(path, json={"action": action})).status_code == 200
        harness.clock.at += 1
    harness.clock.at += 60
    await harness.emit("steered", "shop", {"action": "pause", "by": "pilot", "address": "192.0.2.7"})

    async def steps(key: str) -> list[dict[str, Any]]:
        found = (await client(key).get("/-/routes/shop/history")).json()["steps"]
        return [step for step in found if step["kind"] != "config"]

    twice = [{"id": n, "time": 5.0 + n, "kind": "rollout", "data": {"actor": "a"}} for n in (1, 2)]
    trails = [
        {"id": n, "time": 7.0 + n, "kind": "steered", "data": {"by": "a", "address": "x"}} for n in (3, 4)
    ]
    joined = with_trails([*twice, *trails], whole=True)
    assert [(step["id"], step["data"].get("address")) for step in joined] == [(1, "x"), (2, "x")]
    winner = {"id": 1, "time": 5.0, "kind": "winner", "data": {"by": "a: it is time"}}
    steered = {"id": 2, "time": 5.1, "kind": "steered", "data": {"by": "a", "reason": "it is time"}}
    damaged = {"id": 3, "time": 8.0, "kind": "steered", "data": {"bx": "a"}}
    kinds = [step["kind"] for step in with_trails([winner, steered, *twice, damaged], whole=True)]
    assert kinds == ["winner", "rollout", "rollout", "steered"]
    listed = (await client("reader").get("/-/routes")).json()["routes"]
    (last,) = [route["last_step"] for route in listed if route["route"] == "shop"]
    assert (last["kind"], "address" in last["data"]) == ("steered", False), "of people, not for every reader"
    alone, *taken = await steps("pilot")
    assert alone["kind"] == "steered"
    assert [(s["kind"], s["data"]["action"], s["data"]["address"]) for s in taken] == [
        ("rollout", "resume", "192.0.2.7"),
        ("rollout", "pause", "192.0.2.7"),
    ]
    assert [step["kind"] for step in await steps("reader")] == ["steered", "rollout", "rollout"]
    assert not any("address" in step["data"] for step in await steps("reader"))


async def test_a_login_steers_only_what_its_key_may(client: Client) -> None:
    http = await logged_in(client, "reader", steer=True)
    assert (await http.get("/-/dashboard/session")).json()["scopes"] == ["read"]


async def test_steering_by_the_dashboard_can_be_switched_off(tmp_path: Path) -> None:
    text = auth() + "  dashboard: {steer: false}\n" + ROUTES
    async with started(tmp_path / "t.db", text) as harness:
        transport = httpx.ASGITransport(app=ControlApp(harness))
        async with httpx.AsyncClient(transport=transport, base_url="http://turnout.test") as http:
            await http.post("/-/dashboard/login", json={"key": "ops", "steer": True}, headers=HERE)
            assert (await http.get("/-/dashboard/session")).json()["scopes"] == ["read"]


async def test_a_log_out_ends_copies_of_the_cookie_too(client: Client) -> None:
    """S28: what was copied off a shared machine is worth nothing once its owner has logged out."""
    http = await logged_in(client)
    copied = client()
    copied.cookies.update(http.cookies)
    other = await logged_in(client, "ops")
    assert (await copied.get("/-/routes")).status_code == 200
    assert (await http.post("/-/dashboard/logout", headers=HERE)).status_code == 204
    assert (await copied.get("/-/routes")).status_code == 401
    assert (await other.get("/-/routes")).status_code == 200, "another key's"
    again = await logged_in(client)
    assert (await again.get("/-/routes")).status_code == 200


async def test_two_gateways_on_one_host_do_not_log_each_other_out(client: Client, tmp_path: Path) -> None:
    """Cookies ignore ports: a browser sends the cookie of one gateway to the other."""
    async with started(tmp_path / "second.db") as second:
        transport = httpx.ASGITransport(app=ControlApp(second))
        http = await logged_in(client)
        async with httpx.AsyncClient(transport=transport, base_url="http://turnout.test") as other:
            other.cookies = http.cookies
            await other.post("/-/dashboard/login", json={"key": "reader"}, headers=HERE)
            http.cookies.update(other.cookies)
            assert (await other.get("/-/routes")).status_code == 200
        assert (await http.get("/-/routes")).status_code == 200


async def test_the_form_leads_on_to_the_page_that_was_wanted(client: Client) -> None:
    page = "routes/shop/time?range=3600"
    form = (await client().get(f"/-/dashboard/{page}")).headers["location"]
    assert form == "../../login?next=routes%2Fshop%2Ftime%3Frange%3D3600"
    for key, there in (("nobody", "login?refused=unauthenticated&next="), ("reader", "./")):
        answer = await client().post(
            "/-/dashboard/login", params={"next": page}, data={"key": key}, headers=HERE
        )
        assert answer.headers["location"].startswith(there)
        assert "range" in answer.headers["location"]
    for foreign in ("//evil.test/", "https://evil.test/", "../feedback", "routes/a/../../x", "/\\evil.test"):
        answer = await client().post(
            "/-/dashboard/login", params={"next": foreign}, data={"key": "reader"}, headers=HERE
        )
        assert answer.headers["location"] == "./"


async def test_a_form_says_that_too_many_logins_failed(client: Client) -> None:
    for _ in range(11):
        answer = await client().post("/-/dashboard/login", data={"key": "wrong"}, headers=HERE)
    assert answer.status_code == 303
    assert re.fullmatch("login\\?refused=rate_limited&wait=[1-6]", answer.headers["location"])


async def test_failed_logins_are_limited_by_client(client: Client) -> None:
    for _ in range(10):
        answer = await client().post("/-/dashboard/login", json={"key": "wrong"}, headers=HERE)
        assert answer.status_code == 401
    answer = await client().post("/-/dashboard/login", json={"key": "reader"}, headers=HERE)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 6
    elsewhere = await client(peer="192.0.2.8").post(
        "/-/dashboard/login", json={"key": "reader"}, headers=HERE
    )
    assert elsewhere.status_code == 204


async def test_failed_logins_are_limited_if_all_come_at_once(client: Client) -> None:
    together = asyncio.Barrier(30)

    async def slowly() -> AsyncIterator[bytes]:
        await together.wait()
        yield b'{"key": "wrong"}'

    async def log_in() -> int:
        headers = HERE | {"content-type": "application/json"}
        return (await client().post("/-/dashboard/login", content=slowly(), headers=headers)).status_code

    statuses = await asyncio.gather(*(log_in() for _ in range(30)))
    assert statuses.count(401) <= 15, "ten, and one more every six seconds"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("::ffff:192.0.2.7", "", "192.0.2.7"),
        ("::ffff:10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "", "2001:db8::/64"),
        ("10.0.0.1", "192.0.2.7:80", "10.0.0.1"),
    ],
)
def test_each_ipv4_client_has_failures_of_its_own(peer: str, forwarded: str, client: str) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    request = Request({"type": "http", "client": (peer, 1), "headers": headers})
    assert client_of(request, ["10.0.0.0/8"]) == client


async def test_a_key_of_any_letters_is_unknown_and_no_error(client: Client) -> None:
    """S26: it was 500 and a traceback."""
    for key in ("schlüssel", "€", "\U0001f511", ""):
        answer = await client().post("/-/dashboard/login", json={"key": key}, headers=HERE)
        assert answer.status_code == 401, key


@pytest.mark.long
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json"])
async def test_a_login_reads_no_more_than_a_key_needs(client: Client, kind: str) -> None:
    """S3: megabytes of form fields were parsed on the event loop, for anybody who asked."""
    async with client() as http:
        for body in (b"a=1&" * 1024 + b"a", b'{"key": "' + b"x" * 4096 + b'"}'):
            answer = await http.post(
                "/-/dashboard/login", content=body, headers={**HERE, "content-type": kind}
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        if "form" in kind:
            answer = await http.post(
                "/-/dashboard/login", content=b"a=1&" * 100, headers={**HERE, "content-type": kind}
            )
            assert answer.status_code == 400


async def test_a_rate_counts_what_the_dashboard_asks(client: Client) -> None:
    """S16: a login had no rate at all."""
    http = await logged_in(client, "slow")
    answers = [(await http.get("/-/routes")).status_code for _ in range(5)]
    assert answers.count(429) >= 3


async def test_a_key_bound_to_routes_has_no_say_in_the_configuration(
    harness: Harness, client: Client
) -> None:
    """S2: it could write a document in which it is bound no more."""
    bound = client("bound-admin")
    before = harness.revision().revision
    text = harness.revision().document
    for method, path, more in (
        ("GET", "/-/config", {}),
        ("GET", "/-/config?revision=1", {}),
        ("GET", "/-/config/history", {}),
        ("PUT", "/-/config", {"content": text.replace(", routes: [digits]", "")}),
        ("POST", "/-/config/restore", {"json": {"revision": 1}}),
    ):
        answer = await bound.request(method, path, headers={"if-match": "*"}, **more)
        assert answer.status_code == 403, (method, path)
    assert harness.revision().revision == before
    assert (await bound.get("/-/routes/digits")).status_code == 200


@pytest.mark.parametrize(
    ("key", "steers", "configures"), [("pilot", True, False), ("editor", False, True), ("ops", True, True)]
)
async def test_steering_and_the_configuration_are_scopes_of_their_own(
    harness: Harness, client: Client, key: str, steers: bool, configures: bool
) -> None:
    harness.rollouts["shop"] = {"state": "running", "weight": 0.1}
    http = client(key)
    answer = await http.post("/-/routes/shop/rollout", json={"action": "pause"})
    assert answer.status_code == (200 if steers else 403)
    assert (await http.get("/-/config")).status_code == (200 if configures else 403)


async def test_a_login_ends_with_its_time_its_key_or_its_cookie(harness: Harness, client: Client) -> None:
    http = await logged_in(client)
    harness.clock.at += SESSION_LIFE_S - 1
    assert (await http.get("/-/routes")).status_code == 200
    harness.clock.at += 2
    assert (await http.get("/-/routes")).status_code == 401
    again = await logged_in(client)
    text = "\n".join(x for x in harness.revision().document.splitlines() if "id: reader" not in x) + "\n"
    await harness.revisions.propose(text, "test", "*")
    assert (await again.get("/-/routes")).status_code == 401


@pytest.mark.long
async def test_an_altered_cookie_is_none(client: Client) -> None:
    http = await logged_in(client)
    ((name, value),) = http.cookies.items()
    for wrong in (value[:-3] + "AAA", value[:20], "", "é", "AAAA", "=" * 40):
        answer = await client().get("/-/routes", headers={b"cookie": f"{name}={wrong}".encode()})
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
        answer = await client(peer=peer).get("/-/metrics", headers={"host": "localhost"})
        assert answer.status_code == 200, peer
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_without_auth_all_may_read_and_only_the_machine_itself_may_steer(tmp_path: Path) -> None:
    async with started(tmp_path / "open.db", ROUTES) as harness:
        app = ControlApp(harness)

        def http(peer: str, host: str) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app=app, client=(peer, 1))
            return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")

        far, near = http("192.0.2.7", "turnout.test"), http("127.0.0.1", "localhost:8080")
        assert (await far.get("/-/routes")).status_code == 200
        assert (await far.get("/-/dashboard/")).status_code == 200
        assert (await far.get("/-/dashboard/session")).json()["auth"] is False
        assert (await far.get("/-/config")).status_code == 403
        assert (await near.get("/-/config")).status_code == 200
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


async def test_a_bound_key_sees_the_figures_of_its_routes_alone(harness: Harness, client: Client) -> None:
    """S23: it saw those of all routes."""
    text = (
        b"# HELP turnout_requests_total R.\n# TYPE turnout_requests_total counter\n"
        b'turnout_requests_total{route="digits",variant="v1"} 1.0\n'
        b'turnout_requests_total{route="shop",variant="new"} 2.0\n'
        b"# HELP turnout_fallbacks_total F.\n# TYPE turnout_fallbacks_total counter\n"
        b'turnout_fallbacks_total{variant="v1",route="shop"} 3.0\n'
        b"# HELP turnout_connections C.\n# TYPE turnout_connections gauge\nturnout_connections 4.0\n"
    )
    harness.metrics = lambda: text  # type: ignore[method-assign]
    assert (await client("scraper").get("/-/metrics")).content == text
    bound = await client("bound-scraper").get("/-/metrics")
    assert bound.content == b"".join(text.splitlines(keepends=True)[:3])


async def test_refused_configurations_are_told_to_those_who_may_read_it(
    harness: Harness, client: Client
) -> None:
    """S11: the event quotes what was refused."""
    await harness.emit("config_refused", "", {"error": "c.yaml:3:5: …"})
    await harness.emit("config", "", {"revision": 2})
    for key, kinds in (("reader", ["config"]), ("editor", ["config_refused", "config"])):
        found = (await client(key).get("/-/events/recent")).json()["events"]
        assert [event["kind"] for event in found] == kinds


async def test_writing_the_configuration_can_be_switched_off(tmp_path: Path) -> None:
    text = "config: {api: off}\n" + auth() + ROUTES
    async with started(tmp_path / "t.db", text) as harness:
        transport = httpx.ASGITransport(app=ControlApp(harness))
        headers = {"x-api-key": "ops", "if-match": "*"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://turnout.test", headers=headers
        ) as http:
            assert (await http.get("/-/config")).status_code == 200
            for method, path in (("PUT", "/-/config"), ("POST", "/-/config/restore")):
                answer = await http.request(method, path, content=ROUTES)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
                assert "config: {api: off}" in answer.text
        assert harness.revision().revision == 1


async def test_readiness(harness: Harness, client: Client) -> None:
    assert (await client().get("/-/readyz")).json() == {"status": "ready", "store_outage": None}
    harness.outage = Outage(1795898136.0, 1795898000.0)
    outage = (await client().get("/-/readyz")).json()["store_outage"]
    assert (outage["since"], outage["state_time"]) == (1795898136.0, 1795898000.0)
    assert "unavailable since 2026-11-28 20:35:36 UTC. The gateway started without it" in outage["message"]
    harness.readiness = (False, "The gateway is shutting down.")
    answer = await client().get("/-/readyz")
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "The gateway is shutting down.")
    assert "retry-after" in answer.headers
    assert (await client().get("/-/healthz")).status_code == 200


@pytest.mark.parametrize("path", ["/-/", "/-/dashboard"])
async def test_the_way_to_the_dashboard(path: str, client: Client) -> None:
    answer = await client("").get(path)
    assert answer.status_code == 308
    assert str(answer.url.join(answer.headers["location"])).endswith("/-/dashboard/")
