"""Where a request goes when its variant rewrites it, and which fields the backend sees."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.faults import ConfigError
from gateway.config.load import load
from gateway.dataplane.exchange.serialize import with_prefix, with_version
from tests.wire.rig import Rig
from tests.wire.test_credentials import key

RIG = {
    "top": "auth:\n  keys:\n"
    + key("app", "scopes: [infer]")
    + key("second", "scopes: [infer], routes: [chat-b]"),
    "backends": """\
  tenant:
    url: "http://127.0.0.1:PORT"
    headers: {x-tenant: gold, x_flat: "1", authorization: Bearer ours}
""",
    "routes": """\
  every:
    match: {path: /, host: every.test}
    variants: {v1: {backend: a, rewrite: {path: /versions/1}}}
    policy: {type: single, variant: v1}
  mounted:
    match: {path: /mounted}
    variants: {v1: {backend: a, rewrite: {path: /}}}
    policy: {type: single, variant: v1}
  versioned:
    match: {path: /v2/models/digits}
    variants: {v1: {backend: a, rewrite: {version: 7}}}
    policy: {type: single, variant: v1}
  tenant:
    match: {path: /tenant}
    variants: {v1: {backend: tenant}}
    policy: {type: single, variant: v1}
    forward_credentials: true
  chat-a:
    match: {path: /chat, model: one}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
  chat-b:
    match: {path: /chat, model: two}
    variants: {v1: {backend: b}}
    policy: {type: single, variant: v1}
""",
}


@pytest.mark.parametrize(
    ("target", "prefix", "other", "expected"),
    [
        (b"/7/infer", b"/", b"/versions/1", b"/versions/1/7/infer"),  # once /versions/17/infer
        (b"/stream", b"/", b"/base", b"/base/stream"),
        (b"/api/x", b"/api/", b"/base", b"/base/x"),
        (b"/triton/v2", b"/triton", b"/", b"/v2"),
        (b"/triton/v2", b"/triton/", b"/", b"/v2"),
        (b"/a/x", b"/a", b"/b", b"/b/x"),
        (b"/a/x", b"/a", b"/b/", b"/b/x"),
        (b"/a", b"/a", b"/b", b"/b"),
        (b"/a?q=1", b"/a", b"/b", b"/b?q=1"),
        (b"/", b"/", b"/b", b"/b"),
        (b"/?q", b"/", b"/b/", b"/b/?q"),
        (b"/m:predict", b"/m", b"/n", b"/n:predict"),
        (b"/:predict", b"/", b"/n", b"/n/:predict"),
        (b"//x", b"/", b"/b", b"/b//x"),
    ],
)
def test_a_prefix_is_replaced_with_one_slash_at_the_seam(
    target: bytes, prefix: bytes, other: bytes, expected: bytes
) -> None:
    assert with_prefix(target, prefix, other) == expected


@given(rest=st.text("ab/:?7", max_size=6), slash=st.booleans())
def test_no_path_leaves_the_variant(rest: str, slash: bool) -> None:
    target = with_prefix(b"/" + rest.encode(), b"/", b"/versions/1/" if slash else b"/versions/1")
    path = target.partition(b"?")[0]
    assert path == b"/versions/1" or path.startswith(b"/versions/1/")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/v2/models/m/infer", b"/v2/models/m/versions/7/infer"),
        (b"/v2/models/m/versions/1/infer", b"/v2/models/m/versions/7/infer"),
        (b"/v2/models/m/versions/1/ready?x=/v2/models/q", b"/v2/models/m/versions/7/ready?x=/v2/models/q"),
        (b"/v2/models/m", b"/v2/models/m/versions/7"),
        (b"/v2/models/m/versions/1", b"/v2/models/m/versions/7"),
        (b"/v1/models/m:predict", b"/v1/models/m/versions/7:predict"),
        (b"/v1/models/m/versions/2:classify", b"/v1/models/m/versions/7:classify"),
        (b"/v1/models/m/labels/stable:predict", b"/v1/models/m/versions/7:predict"),
        (b"/v1/models/m/metadata", b"/v1/models/m/versions/7/metadata"),
        (b"/mounted/v2/models/m/infer", b"/mounted/v2/models/m/versions/7/infer"),
        (b"/v2/models/stats", b"/v2/models/stats"),
        (b"/v2/health/ready", b"/v2/health/ready"),
        (b"/v2/models/versions/infer", b"/v2/models/versions/versions/7/infer"),
    ],
)
def test_a_version_is_set_whether_the_client_names_one_or_not(target: bytes, expected: bytes) -> None:
    assert with_version(target, b"7") == expected


def get(target: bytes, *lines: bytes, host: bytes = b"h") -> bytes:
    fields = b"".join(line + b"\r\n" for line in (b"x-api-key: app", *lines))
    return b"GET %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (target, host, fields)


def post(target: bytes, who: bytes, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: h\r\nx-api-key: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        target, who, len(body), body,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        (b"/7/infer", b"every.test", b"/versions/1/7/infer"),
        (b"/mounted/v2", b"h", b"/v2"),
        (b"/v2/models/digits/versions/1/infer", b"h", b"/v2/models/digits/versions/7/infer"),
    ],
)
def test_the_backend_sees_the_rewritten_target(rig: Rig, target: bytes, host: bytes, expected: bytes) -> None:
    with rig.client() as client:
        client.send(get(target, host=host))
        assert client.answer().status == 200
    assert rig.requests[0].target == expected


def test_dot_segments_can_not_climb_out_of_a_version(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(b"/v2/models/digits/x/../versions/9/infer"))
        assert client.answer().status == 404


def test_what_the_configuration_sets_has_no_twin(rig: Rig) -> None:
    """S20: servers that fold "_" to "-" would take either."""
    lines = [b"x_tenant: evil", b"X_Tenant: evil", b"X-TENANT: evil", b"x-flat: evil", b"x-other_one: kept"]
    with rig.client() as client:
        client.send(get(b"/tenant", *lines, b"authorization: Bearer theirs"))
        assert client.answer().status == 200
    fields = {name.lower().replace(b"_", b"-"): value for name, value in rig.b.requests[0].fields}
    assert sorted(name for name, _ in rig.b.requests[0].fields if b"tenant" in name.lower()) == [b"x-tenant"]
    assert fields[b"x-tenant"] == b"gold"
    assert fields[b"x-flat"] == b"1"
    assert fields[b"x-other-one"] == b"kept"
    assert rig.b.requests[0].all("authorization") == [b"Bearer ours"]


@pytest.mark.parametrize("host", ["x\\r\\nx-evil: 1", "a b", "user@host", "", "host:99999", "é.test"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"rewrite\.host"):
        load(
            f"""
backends: {{a: {{url: "http://h"}}}}
routes:
  r:
    match: {{path: /}}
    variants: {{v: {{backend: a, rewrite: {{host: "{host}"}}}}}}
    policy: {{type: single, variant: v}}
""",
            source="c.yaml",
            env={},
        )


# What strangers are told --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "hidden"),
    [
        (get(b"/nowhere"), 404, b"/tenant"),
        (post(b"/chat", b"app", b'{"model": "three"}'), 404, b"two"),
        (post(b"/chat", b"app", b"{}"), 404, b"None"),
        (post(b"/chat", b"second", b'{"model": "one"}'), 403, b"chat-a"),
        (get(b"/dead"), 502, b"127.0.0.1"),
    ],
)
def test_an_error_names_no_route_model_or_address(
    rig: Rig, caplog: pytest.LogCaptureFixture, request_: bytes, status: int, hidden: bytes
) -> None:
    with caplog.at_level(logging.WARNING, "turnout"), rig.client() as client:
        for _ in range(3):
            client.send(request_)
            answer = client.answer()
            assert answer.status == status
            assert hidden not in answer.body
    lines = [record.message for record in caplog.records if "dead" in record.message]
    assert len(lines) == (status == 502)
    assert all("http://127.0.0.1:9" in line for line in lines)


def test_a_key_for_the_second_of_two_models_reaches_it(rig: Rig) -> None:
    """S34: it was refused by the name of the first."""
    with rig.client() as client:
        client.send(post(b"/chat", b"second", b'{"model": "two"}'))
        assert client.answer().body.startswith(b"B|POST|/chat")
        client.send(post(b"/p", b"second", b"{}"))
        assert client.answer().status == 403


def test_paths_are_remembered_only_where_they_lead_somewhere(rig: Rig) -> None:
    """S14: strangers filled a cache with what they asked for."""
    snapshot = rig.worker.snapshot
    with rig.client() as client:
        asked = {b"/nowhere/../..", b"/p/" + b"x" * 300, b"/p/known"}
        for target in asked:
            client.send(get(target))
            client.answer()
    assert asked & set(snapshot._paths) == {b"/p/known"}
