"""Who asks: refusals that come early, and what becomes of credentials and of what proxies say."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.wire.messages import H, get, kept, post
from tests.wire.rig import Rig


def key(name: str, rest: str) -> str:
    return f'    - {{id: {name}, hash: "sha256:{hashlib.sha256(name.encode()).hexdigest()}", {rest}}}\n'


RIG = {
    "top": "trusted_proxies: [127.0.0.0/8]\nauth:\n  keys:\n"
    + key("app", "scopes: [infer], routes: [plain, passing]")
    + key("forcer", "scopes: [infer, force-variant]")
    + key("reader", "scopes: [read]")
    + key("slow", "scopes: [infer], rate: 1/s"),
    "routes": """\
  passing:
    match: {path: /passing}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: single, variant: v1}
    forward_credentials: true
    fallback: [v2]
  keyed:
    match: {path: /keyed}
    unit: {principal: true}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
""",
}
APP = b"x-api-key: app"


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([], 401, "unauthenticated"),
        ([b"x-api-key: wrong"], 401, "unauthenticated"),
        ([b"authorization: Bearer wrong"], 401, "unauthenticated"),
        ([b"x_api_key: app"], 401, "unauthenticated"),
        ([b"x-api-key: reader"], 403, "forbidden"),
    ],
)
@pytest.mark.parametrize("length", [0, 20_000, 50_000_000])
def test_a_refusal_with_its_body_outstanding(
    rig: Rig, lines: list[bytes], status: int, code: str, length: int
) -> None:
    """A small body is drained and the connection kept; a large one is not read."""
    fields = b"".join(line + b"\r\n" for line in lines)
    with rig.client() as client:
        client.send(b"POST /passing/x HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n" % (H, fields, length))
        client.send(b"x" * min(length, 100_000))
        answer = client.answer()
        assert (answer.status, answer.code) == (status, code)
        if status == 401:
            assert answer.all("www-authenticate") == [b"Bearer"]
        assert kept(client, APP) if length <= 20_000 else client.at_end()


def test_a_variant_that_the_key_may_not_force(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/passing/x", APP, b"x-variant: v2"))
        answer = client.answer()
        assert (answer.status, answer.code) == (403, "forbidden")
        assert kept(client, APP)


def test_a_rate(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/p/x", b"x-api-key: slow") * 2)
        assert client.answer().status == 200
        answer = client.answer()
        assert (answer.status, answer.code) == (429, "rate_limited")
        assert answer.all("retry-after") == [b"1"]
        assert kept(client, APP)


@pytest.mark.parametrize(
    ("lines", "passed"),
    [
        ([b"x-api-key: app"], {}),
        ([b"authorization: Bearer app"], {}),
        # The key is the gateway's, so the other one is the backend's
        ([b"x-api-key: app", b"authorization: Bearer other"], {"authorization": [b"Bearer other"]}),
        ([b"authorization: Bearer other", b"x-api-key: app"], {"authorization": [b"Bearer other"]}),
        ([b"x-api-key: app", b"authorization: Bearer other", b"connection: authorization"], {}),
    ],
)
def test_the_gateways_credentials_stay_here(
    rig: Rig, lines: list[bytes], passed: dict[str, list[bytes]]
) -> None:
    with rig.client() as client:
        client.send(get(b"/p/x", *lines))
        assert client.answer().status == 200
    (request,) = rig.requests
    for name in ("authorization", "x-api-key"):
        assert request.all(name) == passed.get(name, [])


@pytest.mark.parametrize(
    ("lines", "passed"),
    [
        ([b"cookie: a=1; __Host-turnout-session-0a1b2c3d=x; b=2"], [b"a=1; b=2"]),
        ([b"cookie: __Host-turnout-session-0a1b2c3d=x"], []),
        ([b"cookie: a=1", b"Cookie: turnout-session-0a1b2c3d=x"], [b"a=1"]),
        ([b"cookie: a=turnout-session-; b=2"], [b"a=turnout-session-; b=2"]),
    ],
)
def test_the_dashboards_cookie_stays_here(rig: Rig, lines: list[bytes], passed: list[bytes]) -> None:
    """Under TLS it is sent with every request to this host, and a backend could log in with it."""
    with rig.client() as client:
        client.send(get(b"/p/x", APP, *lines))
        assert client.answer().status == 200
    assert rig.requests[0].all("cookie") == passed


def test_a_route_that_passes_credentials_on(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/passing/x", b"authorization: Bearer app"))
        assert client.answer().status == 200
    assert rig.requests[0].all("authorization") == [b"Bearer app"]


def test_a_forced_variant_is_not_told_to_the_backend(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/passing/x", b"x-api-key: forcer", b"x-variant: v2"))
        answer = client.answer()
        assert answer.body.startswith(b"B|")
        assert answer.all("x-variant") == [b"v2"]
    assert rig.b.requests[0].all("x-variant") == []


def test_a_forced_variant_that_does_not_exist(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/passing/x", b"x-api-key: forcer", b"x-variant: v9"))
        answer = client.answer()
    assert answer.code == "unknown_variant"
    assert b"it has: v1, v2" in answer.body


def test_a_key_is_a_unit(rig: Rig) -> None:
    """The same for a decision without a request, which may not name another."""
    key_of = b"x-api-key: forcer"
    with rig.client() as client:
        drawn = set()
        for _ in range(8):
            client.send(get(b"/keyed/x", key_of))
            drawn.add(client.answer().all("x-variant")[0].decode())
            client.send(post(b"/-/decide", b'{"route": "keyed"}', key_of, b"content-type: application/json"))
            drawn.add(json.loads(client.answer().body)["variant"])
        assert len(drawn) == 1
        client.send(
            post(b"/-/decide", b'{"route": "keyed", "unit": "x"}', key_of, b"content-type: application/json")
        )
        assert b"The unit of 'keyed' is the key; send no 'unit'." in client.answer().body


def test_what_a_trusted_proxy_says_is_kept_and_added_to(rig: Rig) -> None:
    with rig.client() as client:
        client.send(
            get(
                b"/p/x",
                APP,
                b"x-forwarded-for: 10.0.0.1, 10.0.0.2",
                b"x-forwarded-for: 10.0.0.3",
                b"x-forwarded-proto: https",
                b"x-forwarded-host: public.test",
                b"forwarded: for=10.0.0.1;proto=https",
                b"x-real-ip: 10.0.0.9",
            )
        )
        assert client.answer().status == 200
    (request,) = rig.requests
    assert request.all("x-forwarded-for") == [b"10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1"]
    assert request.all("x-forwarded-proto") == [b"https"]
    assert request.all("x-forwarded-host") == [b"public.test"]
    assert request.all("forwarded") == [
        b'for=10.0.0.1;proto=https, for=127.0.0.1;proto=https;host="public.test"'
    ]
    assert request.all("x-real-ip") == []


def test_what_a_proxy_passes_on_can_not_pose_as_an_element_of_forwarded(rig: Rig) -> None:
    """A trusted proxy may hand on what its client sent as scheme and host."""
    with rig.client() as client:
        lines = [b'x-forwarded-host: a";for="10.6.6.6', b"x-forwarded-proto: https;for=10.6.6.6, for=x"]
        client.send(get(b"/p/x", APP, *lines))
        assert client.answer().status == 200
        client.send(get(b"/p/x", APP, b"x-forwarded-host: a\\"))
        assert client.answer().status == 200
    first, second = (request.all("forwarded") for request in rig.requests)
    assert first == [b'for=127.0.0.1;proto="https;for=10.6.6.6, for=x";host="a\\";for=\\"10.6.6.6"']
    assert second == [b'for=127.0.0.1;proto=http;host="a\\\\"']
