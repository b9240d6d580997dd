"""A gateway without `auth` against pages in the browser of its user, and against strangers behind a proxy.

Everything here comes over loopback, as the bytes that a browser or a proxy would send.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.wire.rig import Rig

RIG = {
    "top": "browsers: {hosts: [models.example.com], origins: ['https://app.example.com']}",
    "routes": """
  users:
    match: {path: /users}
    unit: {header: x-forwarded-user}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
""",
}
EVIL = b"host: evil.example:8080\r\n"
OURS = b"host: localhost:8080\r\n"
SAFE = [b"localhost", b"127.0.0.1:8080", b"[::1]:8080", b"gateway", b"turnout.prod.svc", b"gateway.internal.",
        b"models.example.com:8080", b"app.localhost"]  # fmt: skip
CONTROL = [
    ("GET", "/-/config"), ("PUT", "/-/config"), ("GET", "/-/outcomes"), ("GET", "/-/routes"),
    ("GET", "/-/events/recent"), ("POST", "/-/feedback"), ("GET", "/-/metrics"),
    ("POST", "/-/routes/plain/rollout"),
]  # fmt: skip


def request(method: str, path: str, host: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(body) if body else b""
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (method.encode(), path.encode(), host, length, fields, body)


def ask(rig: Rig, data: bytes) -> tuple[int, bytes]:
    with rig.client() as client:
        client.send(data)
        answer = client.answer(data.split(b" ")[0])
        return answer.status, answer.body


@pytest.mark.parametrize(
    ("path", "host", "message"),
    [
        ("/user", OURS, "No route matches GET '/user'; the route 'users' has '/users'."),
        ("/user", EVIL, "No route matches GET '/user'; send a path"),
        ('/zz%00<b>"' + "x" * 200, OURS, "No route matches GET '/zz%00<b>\""),
    ],
    ids=["near", "another site", "hostile"],
)
def test_what_no_route_matches_is_named(rig: Rig, path: str, host: bytes, message: str) -> None:
    status, body = ask(rig, request("GET", path, host))
    found = json.loads(body)["error"]["message"]
    assert status == 404
    assert found.startswith(message)
    assert len(found) < 300
    assert ("users" in found) == ("'users'" in message)


@pytest.mark.parametrize("credential", [b"", b"authorization: Bearer x", b"x-api-key: x"])
@pytest.mark.parametrize(("method", "path"), CONTROL)
def test_a_rebound_page_reads_and_changes_nothing(
    rig: Rig, method: str, path: str, credential: bytes
) -> None:
    """S1: any Authorization field was taken for a credential, and loopback then made it admin."""
    lines = [credential] if credential else []
    status, body = ask(rig, request(method, path, EVIL, *lines, body=b"{}" if method != "GET" else b""))
    assert (status, json.loads(body)["error"]["code"]) == (403, "forbidden")


def test_the_whole_chain_of_a_rebound_page_is_cut(rig: Rig) -> None:
    """S1: a document with `${HOME}` in a local reply read out the environment."""
    status, text = ask(rig, request("GET", "/-/config", OURS))
    assert status == 200
    planted = text.replace(b"{fixed: true}", b'{home: "${HOME}"}')
    assert planted != text
    put = [b"authorization: Bearer x", b"if-match: *", b"origin: http://evil.example:8080"]
    assert ask(rig, request("PUT", "/-/config", EVIL, *put, body=planted))[0] == 403
    assert ask(rig, request("PUT", "/-/config", OURS, *put, body=planted))[0] == 403, "a page of another site"
    assert ask(rig, request("GET", "/-/config", OURS))[1] == text


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_rebound_page_does_not_reach_a_backend(rig: Rig, method: str) -> None:
    status, body = ask(rig, request(method, "/p/x", EVIL, body=b"{}" if method == "POST" else b""))
    assert (status, json.loads(body)["error"]["code"]) == (403, "forbidden")
    assert b"browsers: {hosts: [evil.example]}" in body
    assert not rig.requests


@pytest.mark.parametrize("host", SAFE)
def test_names_that_no_stranger_can_own_are_served(rig: Rig, host: bytes) -> None:
    assert ask(rig, request("GET", "/p/x", b"host: %b\r\n" % host))[0] == 200
    assert ask(rig, request("GET", "/-/routes", b"host: %b\r\n" % host))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"127.0.0.1", 200),
        (b"models.example.com", 200),
        (b"gateway", 403),
        (b"a.local", 403),
    ],
)
def test_only_names_of_this_machine_configure(rig: Rig, host: bytes, status: int) -> None:
    """Whoever is in the same network may answer for a name without a dot, or below `.local`."""
    assert ask(rig, request("GET", "/-/config", b"host: %b\r\n" % host))[0] == status


FOREIGN = [
    [b"origin: https://evil.example"],
    [b"origin: null"],
    [b"origin: http://localhost:3000"],
    [b"origin: https://evil.example", b"sec-fetch-site: cross-site", b"sec-fetch-mode: no-cors"],
    [b"origin: http://localhost:3000", b"sec-fetch-site: same-site", b"sec-fetch-mode: cors"],
]


@pytest.mark.parametrize("lines", FOREIGN)
@pytest.mark.parametrize("path", ["/p/x", "/-/feedback", "/-/config", "/-/routes/plain/rollout"])
def test_a_foreign_page_posts_nothing(rig: Rig, path: str, lines: list[bytes]) -> None:
    """S27: text/plain needs no preflight, so any page could spend, and write into the record."""
    method = "PUT" if path == "/-/config" else "POST"
    text = b"content-type: text/plain"
    status, body = ask(rig, request(method, path, OURS, text, *lines, body=b"{}"))
    assert (status, json.loads(body)["error"]["code"]) == (403, "forbidden")
    assert not rig.requests


@pytest.mark.parametrize("mode", [b"no-cors", b"cors", b"websocket"])
def test_a_foreign_page_embeds_nothing(rig: Rig, mode: bytes) -> None:
    lines = [b"sec-fetch-site: cross-site", b"sec-fetch-mode: " + mode]
    assert ask(rig, request("GET", "/p/x", OURS, *lines))[0] == 403
    assert ask(rig, request("GET", "/-/routes", OURS, *lines))[0] == 403
    assert not rig.requests


def test_a_link_from_elsewhere_may_be_followed(rig: Rig) -> None:
    lines = [b"sec-fetch-site: cross-site", b"sec-fetch-mode: navigate", b"sec-fetch-dest: document"]
    assert ask(rig, request("GET", "/-/dashboard/", OURS, *lines))[0] == 200
    assert (
        ask(rig, request("POST", "/p/x", OURS, *lines, b"origin: https://evil.example", body=b"{}"))[0] == 403
    )


HIDDEN = [
    [b"sec-fetch-site: cross-site", b"sec-fetch-dest: iframe"],
    [b"sec-fetch-site: cross-site", b"sec-fetch-dest: object"],
    [b"sec-fetch-site: cross-site"],
    [b"sec-fetch-site: cross-site", b"sec-fetch-dest: document", b"sec-purpose: prefetch"],
    [b"sec-fetch-site: none", b"sec-fetch-dest: document", b"sec-purpose: prefetch;prerender"],
]


@pytest.mark.parametrize("lines", HIDDEN)
def test_a_foreign_page_loads_nothing_that_its_user_does_not_see(rig: Rig, lines: list[bytes]) -> None:
    """S27: frames and speculation rules reached the routes, where each request is a decision."""
    lines = [*lines, b"sec-fetch-mode: navigate"]
    assert ask(rig, request("GET", "/p/x", OURS, *lines))[0] == 403
    assert ask(rig, request("GET", "/-/config", OURS, *lines))[0] == 403
    assert not rig.requests


@pytest.mark.parametrize("host", [EVIL, OURS])
def test_a_foreign_page_opens_no_websocket(rig: Rig, host: bytes) -> None:
    upgrade = [b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"]
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
    assert ask(rig, request("GET", "/p/x", host, *upgrade, key, b"origin: http://evil.example"))[0] == 403
    assert not rig.requests


@pytest.mark.parametrize(
    "lines",
    [
        [b"origin: http://localhost:8080"],
        [b"origin: http://localhost:8080", b"sec-fetch-site: same-origin"],
        [b"origin: https://app.example.com", b"sec-fetch-site: cross-site", b"sec-fetch-mode: cors"],
        [b"sec-fetch-site: none"],
        [],
    ],
)
def test_own_pages_listed_ones_and_programs_are_served(rig: Rig, lines: list[bytes]) -> None:
    assert ask(rig, request("POST", "/p/x", OURS, *lines, body=b"{}"))[0] == 200
    assert ask(rig, request("POST", "/-/feedback", OURS, *lines, body=b'{"items": []}'))[0] == 200


PROXIES = [
    b"x-forwarded-for: 203.0.113.9", b"forwarded: for=203.0.113.9", b"x-real-ip: 203.0.113.9",
    b"via: 1.1 proxy", b"x-forwarded-proto: https", b"x-forwarded-host: public.test", b"x-forwarded-port: 443",
    b"x-forwarded-prefix: /x", b"x-original-url: /x", b"cf-connecting-ip: 203.0.113.9", b"x_real_ip: 203.0.113.9",
    b"x-forwarded-uri: /x", b"X-Forwarded-Client-Cert: x", b"x-forwarded_for: 203.0.113.9", b"x_forwarded_by: x",
    b"X-Forwarded-User: a route's unit",
]  # fmt: skip


@pytest.mark.parametrize("line", PROXIES)
def test_whoever_comes_through_a_proxy_on_this_machine_is_not_local(rig: Rig, line: bytes) -> None:
    """S8: a proxy that sets only one of these lent admin to the world."""
    assert ask(rig, request("GET", "/-/config", OURS))[0] == 200
    assert ask(rig, request("GET", "/-/config", OURS, line))[0] == 403
    assert ask(rig, request("GET", "/p/x", OURS, line, b"x-variant: v1"))[0] == 403
    assert ask(rig, request("GET", "/p/x", OURS, line))[0] == 200


def test_http_1_0_is_not_local(rig: Rig) -> None:
    """nginx before 1.29.7 speaks it to us by default, and sets no field that tells of it."""
    with rig.client() as client:
        client.send(b"GET /-/config HTTP/1.0\r\n" + OURS + b"\r\n")
        assert client.answer().status == 403


def test_who_is_local_may_force_a_variant(rig: Rig) -> None:
    """S27: strangers could, which nothing said."""
    status, body = ask(rig, request("GET", "/p/x", OURS, b"x-variant: v1"))
    assert (status, body) == (200, b"A|GET|/p/x|0")
    assert ask(rig, request("GET", "/p/x", b"host: gateway\r\n", b"x-variant: v1"))[0] == 403


def test_a_via_field_goes_on(rig: Rig) -> None:
    assert ask(rig, request("GET", "/p/x", OURS, b"via: 1.1 proxy"))[0] == 200
    assert b"1.1 proxy" in rig.requests[0].all("via")[0]


def test_names_without_end_cost_no_memory(rig: Rig) -> None:
    with rig.client() as client:
        for number in range(600):
            client.send(request("GET", "/p/x", b"host: evil%d.example\r\n" % number))
            assert client.answer().status == 403
    assert len(rig.worker.snapshot.authenticator.browsers._hosts) <= 256


def test_what_is_refused_names_what_to_write(rig: Rig) -> None:
    _, body = ask(rig, request("GET", "/p/x", OURS, b"origin: https://evil.example"))
    assert re.search(rb"browsers: \{origins:", body)
