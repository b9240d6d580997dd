"""The one error shape, on every path, for every method, credential and body that is wrong."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from gateway.control import app as app_module
from gateway.control.app import SPECIFICATION, ControlApp
from gateway.control.endpoint import ENGINE, OPEN
from gateway.control.middleware import ErrorMiddleware
from gateway.control.routes import ENDPOINTS
from gateway.errors import CODES
from tests.control.conftest import Client
from tests.support.harness import Harness

PATHS = sorted({call.path for call in ENDPOINTS})
ASKING = [call for call in ENDPOINTS if call.scope != OPEN]


def concrete(path: str) -> str:
    for name, value in {
        "route": "digits",
        "hook": "event",
        "decision_id": "0" * 32,
        "name:path": "mark.svg",
    }.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def shaped(answer: httpx.Response, code: str | None = None) -> dict[str, Any]:
    """Asserts the shape; answers the error."""
    where = (answer.request.method, str(answer.request.url), answer.status_code, answer.text)
    body = answer.json()
    assert set(body) == {"error"}, where
    error = body["error"]
    assert {"code", "message", "request_id"} <= set(error), where
    assert error["message"].strip(), where
    assert re.fullmatch(r"[a-z][a-z0-9_]*", error["code"]), where
    assert CODES[error["code"]].status == answer.status_code, where
    assert answer.headers["content-type"] == "application/json", where
    assert answer.headers["x-request-id"] == error["request_id"], where
    assert answer.headers["cache-control"] == "no-store", where
    if code is not None:
        assert error["code"] == code, where
    return dict(error)


async def test_a_method_that_is_not_served_is_405_with_allow(client: Client) -> None:
    for path in PATHS:
        served = {call.method for call in ENDPOINTS if call.path == path}
        for method in {"DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "POST", "PUT", "GET"} - served:
            answer = await client("ops").request(method, concrete(path))
            shaped(answer, "method_not_allowed")
            assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == served


async def test_no_credential_or_a_wrong_one_is_401(client: Client) -> None:
    credentials: list[dict[str, str]] = [
        {},
        {"x-api-key": "wrong"},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic b3BzOm5vcGU="},
        {"cookie": "turnout-session=AAAA"},
    ]
    for call in ASKING:
        for headers in credentials:
            answer = await client().request(call.method, concrete(call.path), headers=headers)
            shaped(answer, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_without_the_scope_is_403(client: Client) -> None:
    keys = {"inferrer": "infer", "writer": "feedback", "reader": "read", "scraper": "metrics"}
    for call in ASKING:
        for key, scope in keys.items():
            if call.scope not in (scope, ENGINE):  # no key is the token of an engine
                shaped(await client(key).request(call.method, concrete(call.path)), "forbidden")


async def test_a_key_without_the_route_learns_not_even_whether_it_exists(client: Client) -> None:
    for call in ASKING:
        for route in ("shop", "no-such-route"):
            if "{route}" in call.path:
                key = "digits-reader" if call.scope == "read" else "app"
                answer = await client(key).request(call.method, call.path.replace("{route}", route))
                shaped(answer, "forbidden")


async def test_a_body_that_is_no_json_or_not_of_the_shape(client: Client) -> None:
    bodies = {b"{": "bad_json", b"\xff": "bad_json", b"[]": "invalid", b"{}": "invalid"}
    for call in ENDPOINTS:
        for body, code in bodies.items():
            if not isinstance(call.body, type):
                continue
            answer = await client("ops").request(call.method, concrete(call.path), content=body)
            if call.path == "/-/feedback" and body == b"{}":
                assert answer.json()["rejected"][0]["code"] == "invalid"
            elif call.path == "/-/feedback/token" and body == b"{}":
                assert answer.status_code == 200  # every field has a default
            else:
                shaped(answer, code)


async def test_a_query_that_is_not_understood_is_422(client: Client) -> None:
    wrong = ["nonsense=1", "limit=x&limit=y", "since=yesterday", "limit=0", "route=a&route=b"]
    for call in ENDPOINTS:
        for query in wrong if call.query is not None else ():
            answer = await client("ops").get(f"{concrete(call.path)}?{query}")
            error = shaped(answer, "invalid")
            assert query.split("=")[0] in error["message"]


HOSTILE = (
    "", "-1", "0", "inf", "nan", "1e999", "9" * 20, "9" * 5000, "%00", "%ff", "%ed%a0%80",
    "0001-01-01T00:00:00Z",
)  # fmt: skip


async def test_no_value_of_a_query_is_a_fault_of_ours(client: Client) -> None:
    """Each parameter of each call, by itself and beside what the call requires."""
    http = client("ops")
    for call in ENDPOINTS:
        fields = call.query.model_fields if call.query is not None else {}
        method = "HEAD" if call.path == "/-/events" else call.method  # its stream does not end
        required = {field.alias or name: "0" for name, field in fields.items() if field.is_required()}
        for name, field in fields.items():
            for value in HOSTILE:
                query = required | {field.alias or name: value}
                url = f"{concrete(call.path)}?{'&'.join(f'{k}={v}' for k, v in query.items())}"
                answer = await http.request(method, url)
                assert answer.status_code < 500, (url[:120], answer.text)
    for given in ("9" * 20, "9" * 5000, "٣", "-1", "1.5"):
        answer = await http.get("/-/events", headers={b"last-event-id": given.encode()})
        shaped(answer, "invalid")


async def test_a_head_has_no_length_that_the_stream_of_a_get_has_not(client: Client) -> None:
    for path in ("/-/events", "/-/outcomes.csv"):
        found = await client("ops").head(path)
        assert (found.status_code, found.headers.get("content-length")) == (200, None)


async def test_what_only_pythons_parser_knows_is_not_told(client: Client) -> None:
    for body in ('{"items": ' + "9" * 5000 + "}", '{"items": ' + "[" * 5000):
        error = shaped(await client("ops").post("/-/feedback", content=body), "bad_json")
        assert "sys." not in error["message"]
        assert "recursion" not in error["message"]


async def test_unknown_paths_are_404(client: Client) -> None:
    paths = ["nothing", "routes/", "routes/digits/", "dashboard/nothing.js", "%00", "routes/a%2Fb/c"]
    for path in paths:
        shaped(await client("ops").get(f"/-/{path}"), "not_found")


async def test_unknown_routes_and_decisions_are_404(client: Client) -> None:
    http = client("ops")
    for path in ("/-/routes/none", "/-/routes/none/series", f"/-/decisions/{'a' * 32}"):
        shaped(await http.get(path), "not_found")
    shaped(await http.get("/-/decisions/notsealed"), "invalid")


async def test_a_fault_of_ours_is_a_500_that_tells_the_log_and_not_the_client(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("the secret inside")

    for name in ("document", "authenticator", "ready", "metrics", "revision"):
        monkeypatch.setattr(harness, name, broken)
    failed = 0
    for k, call in enumerate(c for c in ENDPOINTS if c.scope != ENGINE):  # refused before anything is read
        headers = {"x-request-id": f"mine-{k}"}
        with caplog.at_level(logging.ERROR, "turnout.control"):
            answer = await client("ops", peer="127.0.0.1").request(
                call.method, concrete(call.path), headers=headers, content=b'{"key": "reader"}'
            )
        if answer.status_code < 400:
            assert call.scope == OPEN
            continue
        failed += 1
        assert shaped(answer, "internal")["request_id"] == f"mine-{k}"
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        assert any(f"mine-{k}" in record.getMessage() and record.exc_info for record in caplog.records)
    assert failed > 15


async def test_request_ids_are_taken_over_only_if_they_are_safe_to_repeat(client: Client) -> None:
    http = client()
    assert (await http.get("/-/healthz", headers={"x-request-id": "abc-1"})).headers[
        "x-request-id"
    ] == "abc-1"
    for bad in ("a b", "x" * 200, "é"):
        answer = await http.get("/-/healthz", headers={b"x-request-id": bad.encode()})
        assert re.fullmatch(r"[0-9a-f]{24}", answer.headers["x-request-id"])


async def test_every_answer_may_not_be_sniffed_or_stored(client: Client) -> None:
    for path in ("/-/healthz", "/-/routes", SPECIFICATION, "/-/config"):
        answer = await client("ops").get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(client: Client) -> None:
    http = client("slow")
    assert (await http.get("/-/routes")).status_code == 200
    answer = await http.get("/-/routes")
    shaped(answer, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1


def test_loopback_excuses_only_the_figures_for_prometheus() -> None:
    assert [call.path for call in ENDPOINTS if call.open_to_loopback] == ["/-/metrics"]


async def test_a_client_that_leaves_before_its_answer_is_no_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"late": True})(scope, receive, send)

    async def send(message: Message) -> None:
        raise OSError("the client has gone")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/-/routes", "headers": []}
    await ErrorMiddleware(answers)(scope, receive, send)
    assert not caplog.records


async def test_a_poll_of_a_stranger_is_held_before_it_is_refused(
    app: ControlApp, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused Envoy polled 13 times a second."""
    monkeypatch.setattr(app_module, "REFUSED_POLL_S", 1e6)
    poll = asyncio.create_task(client().post("/v3/discovery:routes", json={"node": {"id": "e1"}}))
    assert (await client().post("/-/engines/rows")).status_code == 401
    for _ in range(100):
        await asyncio.sleep(0)
    assert not poll.done()
    app.close()
    assert (await asyncio.wait_for(poll, 60)).status_code == 401
