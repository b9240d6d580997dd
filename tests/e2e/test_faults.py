"""What goes wrong is one JSON shape with the right status, and never a stack trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backends.reference import digits
from tests.e2e.common import config, request_body, wait_for
from tests.support.processes import GatewayProcess, ModelServerProcess


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, model_server: ModelServerProcess
) -> Iterator[GatewayProcess]:
    text = config(model_server).replace(
        "backends:\n",
        "auth:\n  keys:\n"
        "    - {id: app, hash: 'sha256:@HASH_APP@', scopes: [infer, feedback], routes: [digits]}\n"
        "    - {id: eye, hash: 'sha256:@HASH_EYE@', scopes: [read, metrics]}\n"
        "    - {id: all, hash: 'sha256:@HASH_ALL@', scopes: [admin]}\n"
        "    - {id: slow, hash: 'sha256:@HASH_SLOW@', scopes: [infer], rate: 2/s}\n"
        "backends:\n",
        1,
    )
    for name in ("app", "eye", "all", "slow"):
        text = text.replace(f"@HASH_{name.upper()}@", hashlib.sha256(f"key-{name}".encode()).hexdigest())
    text = text.replace(
        "policy: {type: single, variant: v1}\n  rescued",
        "policy: {type: single, variant: v1}\n    body_limit: 1KiB\n  rescued",
    )
    with GatewayProcess(tmp_path_factory.mktemp("faults"), text) as found:
        yield found


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("POST", "/nowhere", {}, 404, "unknown_route"),
        ("POST", "/v2/models/digits/infer", {}, 401, "unauthenticated"),
        ("POST", "/v2/models/digits/infer", {"x-api-key": "wrong"}, 401, "unauthenticated"),
        ("POST", "/v2/models/digits/infer", {"x-api-key": "key-eye"}, 403, "forbidden"),
        ("POST", "/dead/x", {"x-api-key": "key-app"}, 403, "forbidden"),
        (
            "POST",
            "/v2/models/digits/infer",
            {"x-api-key": "key-app", "x-variant": "v1"},
            403,
            "forbidden",
        ),
        (
            "POST",
            "/v2/models/digits/infer",
            {"x-api-key": "key-all", "x-variant": "v9"},
            422,
            "unknown_variant",
        ),
        ("POST", "/dead/x", {"x-api-key": "key-all"}, 502, "backend_connect"),
        ("DELETE", "/-/feedback", {"x-api-key": "key-all"}, 405, "method_not_allowed"),
        ("GET", "/-/routes", {"authorization": "Bearer key-app"}, 403, "forbidden"),
        ("GET", "/-/nothing", {"x-api-key": "key-all"}, 404, "not_found"),
    ],
)
def test_one_shape(
    gateway: GatewayProcess, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = httpx.request(method, gateway.url + path, headers=headers)
    assert answer.status_code == status, answer.text
    error = answer.json()
    assert set(error) == {"error"}
    assert set(error["error"]) == {"code", "message", "request_id"}
    assert error["error"]["request_id"] == answer.headers["x-request-id"]
    assert error["error"]["code"] == code
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"]


def test_an_oversized_body(gateway: GatewayProcess) -> None:
    answer = httpx.post(f"{gateway.url}/dead/x", content=b"x" * 2000, headers={"x-api-key": "key-all"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_rate(gateway: GatewayProcess) -> None:
    url, key = f"{gateway.url}/v2/models/digits/ready", {"x-api-key": "key-slow"}
    with httpx.Client() as client:
        answers = [client.get(url, headers=key) for _ in range(6)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_fallback_hides_no_failure_and_credits_no_rescuer(
    gateway: GatewayProcess, held_out: digits.Digits
) -> None:
    key = {"x-api-key": "key-all"}
    answer = httpx.post(
        f"{gateway.url}/v2/models/rescued/infer", json=request_body(held_out.pixels[0]), headers=key
    )
    assert answer.status_code == 200
    assert answer.headers["x-variant"] == "old"
    reported = httpx.post(
        f"{gateway.url}/-/feedback",
        headers=key,
        json={"decision_id": answer.headers["x-decision-id"], "metric": "correct", "value": True},
    )
    assert reported.json()["accepted"] == 1

    def variants() -> Any:
        return httpx.get(f"{gateway.url}/-/routes/rescued", headers=key).json()["variants"]

    wait_for(lambda: variants()["new"]["assigned"] == 1)
    found = variants()
    assert (found["new"]["errors"], found["new"]["fallbacks"], found["new"]["served"]) == (1, 1, 0)
    assert (found["old"]["assigned"], found["old"]["served"]) == (0, 1)
    assert not found["old"]["rewards"].get("correct", {}).get("count")
    assert found["new"]["rewards"]["correct"]["mean"] == 0.0
    decision = httpx.get(f"{gateway.url}/-/decisions/{answer.headers['x-decision-id']}", headers=key).json()
    assert decision["outcome"]["assigned"] == "new"
    assert decision["outcome"]["served"] == "old"
    assert decision["outcome"]["error"] == "backend_connect"


def test_a_fixed_answer_is_the_last_resort(gateway: GatewayProcess) -> None:
    answer = httpx.post(f"{gateway.url}/fixed", headers={"x-api-key": "key-all"}, json={})
    assert answer.status_code == 200
    assert answer.json() == {"label": "unknown"}
    assert answer.headers["content-type"] == "application/json"


def test_bad_items_do_not_spoil_good_ones(gateway: GatewayProcess, held_out: digits.Digits) -> None:
    key = {"x-api-key": "key-all"}
    body = request_body(held_out.pixels[0])
    good = httpx.post(f"{gateway.url}/v2/models/digits/infer", json=body, headers=key).headers[
        "x-decision-id"
    ]
    forged = good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB")
    items = [
        {"decision_id": good, "metric": "correct", "value": True},
        {"decision_id": forged, "metric": "correct", "value": True},
        {"decision_id": "nonsense", "metric": "correct", "value": True},
        {"decision_id": good, "metric": "no-such", "value": True},
        {"decision_id": good, "metric": "correct", "value": True},
        {"decision_id": good, "metric": "correct", "value": False},
        "not even an object",
    ]
    answer = httpx.post(f"{gateway.url}/-/feedback", json={"items": items}, headers=key).json()
    assert (answer["accepted"], answer["duplicates"], answer["updated"]) == (1, 1, 1)
    assert [r["index"] for r in answer["rejected"]] == [1, 2, 3, 6]
    assert all(r["code"] and r["message"] for r in answer["rejected"])
