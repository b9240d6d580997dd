"""The document, the docs and the answers say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.control.app import SPECIFICATION
from gateway.control.endpoint import OPEN
from gateway.control.routes import ENDPOINTS
from gateway.errors import CODES
from tests.control.conftest import Client
from tests.support.harness import Harness
from tests.support.seed import World, live_through

DOCS = Path(__file__).parents[2] / "docs" / "api.md"
WORLD = World("digits", {"v1": 0.9, "v2": 0.95}, errors={"v1": 0.3}, shadow=("v3", 0.9))
DOCUMENTED = [call for call in ENDPOINTS if call.documented]


@pytest.fixture
async def document(client: Client) -> Any:
    return (await client().get(SPECIFICATION)).json()


def resolved(document: Any, schema: Any) -> Any:
    """The schema with its references made findable for the validator."""
    return {**schema, "components": document["components"]}


def validate(document: Any, path: str, method: str, status: int, answer: Any) -> None:
    operation = document["paths"][path][method]
    response = operation["responses"][str(status)]
    schema = response["content"]["application/json"]["schema"]
    errors = list(Draft202012Validator(resolved(document, schema)).iter_errors(answer))
    assert not errors, f"{method} {path}: {errors[0].message} at {errors[0].json_path}"


def test_every_call_is_in_the_docs() -> None:
    text = DOCS.read_text()
    for call in DOCUMENTED:
        assert f"`{call.method} {call.path}`" in text, (
            f"docs/api.md says nothing of {call.method} {call.path}"
        )
    written = set(re.findall(r"^### `(\w+) (/[^`]*)`", text, flags=re.MULTILINE))
    assert written == {(call.method, call.path) for call in DOCUMENTED} | {("GET", SPECIFICATION)}


def test_every_error_that_a_call_names_is_in_the_docs() -> None:
    text = DOCS.read_text()
    for code in {code for call in ENDPOINTS for code in call.errors}:
        assert code in CODES
        assert f"`{code}`" in text, code


async def test_the_document_is_valid_and_whole(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    known = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert known == {(c.method, c.path) for c in DOCUMENTED} | {("GET", SPECIFICATION)}
    identifiers = [o["operationId"] for item in document["paths"].values() for o in item.values()]
    assert len(identifiers) == len(set(identifiers))
    names = set(document["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", str(document))) <= names
    for call in DOCUMENTED:
        operation = document["paths"][call.path][call.method.lower()]
        assert bool(operation["security"]) == (call.scope != OPEN)
        placed = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert placed == set(re.findall(r"{(\w+)}", call.path))


async def test_real_answers_are_as_the_document_says(harness: Harness, client: Client, document: Any) -> None:
    await live_through(harness, WORLD, steps=5, per_step=40)
    harness.rollouts["shop"] = {
        "state": "running",
        "phase": "canary",
        "stage": 0,
        "stages": 2,
        "weight": 0.1,
        "verdicts": [{"metric": "error_rate", "verdict": "pass"}],
    }
    await harness.emit("rollout", "shop", {"stage": 0})
    http = client("ops")
    outcome = (await http.get("/-/outcomes?errors=true")).json()["outcomes"][0]
    real = {
        "/-/healthz": "/-/healthz",
        "/-/readyz": "/-/readyz",
        "/-/routes": "/-/routes",
        "/-/routes/{route}/series": "/-/routes/digits/series",
        "/-/routes/{route}/verdict": "/-/routes/shop/verdict",
        "/-/routes/{route}/history": "/-/routes/shop/history",
        "/-/routes/{route}/disagreements": "/-/routes/digits/disagreements?shadow=v3",
        "/-/routes/{route}/distributions": "/-/routes/digits/distributions",
        "/-/routes/{route}/shadow": "/-/routes/digits/shadow?shadow=v3",
        "/-/routes/{route}/lift": "/-/routes/digits/lift?metric=correct",
        "/-/routes/{route}/segments": "/-/routes/digits/segments",
        "/-/config/history": "/-/config/history",
        "/-/config/difference": "/-/config/difference?from=1&to=1",
        "/-/outcomes": "/-/outcomes?limit=5",
        "/-/decisions/{decision_id}": f"/-/decisions/{outcome['decision']}",
        "/-/events/recent": "/-/events/recent",
        "/-/engines": "/-/engines",
        "/-/dashboard/session": "/-/dashboard/session",
    }
    models = {c.path for c in DOCUMENTED if c.method == "GET" and isinstance(c.response, type)}
    assert models == {*real, "/-/routes/{route}", "/v1/models"}
    for path, asked in real.items():
        answer = await http.get(asked)
        assert answer.status_code == 200, answer.text
        validate(document, path, "get", 200, answer.json())
    for route in ("digits", "shop", "quiet"):
        validate(document, "/-/routes/{route}", "get", 200, (await http.get(f"/-/routes/{route}")).json())


async def test_real_answers_to_changes_are_as_the_document_says(
    harness: Harness, client: Client, document: Any
) -> None:
    http = client("ops")
    harness.rollouts["shop"] = {
        "state": "running",
        "phase": "canary",
        "stage": 0,
        "weight": 0.1,
        "verdicts": [],
    }
    text = harness.revision().document
    edited = await http.put("/-/config", content=text + "\n", headers={"if-match": "*"})
    validate(document, "/-/config", "put", 200, edited.json())
    restored = await http.post("/-/config/restore", json={"revision": 1}, headers={"if-match": "*"})
    validate(document, "/-/config/restore", "post", 200, restored.json())
    paused = await http.post("/-/routes/shop/rollout", json={"action": "pause"})
    validate(document, "/-/routes/{route}/rollout", "post", 200, paused.json())
    fed = await http.post("/-/feedback", json={"decision_id": "x", "metric": "correct", "value": 1})
    validate(document, "/-/feedback", "post", 200, fed.json())
    refused = await http.put("/-/config", content="nonsense: 1", headers={"if-match": "*"})
    validate(document, "/-/config", "put", 422, refused.json())
    assert (await http.get("/-/metrics")).text.startswith("# TYPE")


async def test_only_what_a_request_must_send_is_required(document: Any) -> None:
    schemas = document["components"]["schemas"]
    assert "required" not in schemas["FeedbackTokenRequest"], "its fields have defaults"
    assert schemas["RolloutRequest"]["required"] == ["action"]
    parameters = document["paths"]["/-/routes/{route}/disagreements"]["get"]["parameters"]
    assert {p["name"] for p in parameters if p["required"]} == {"route", "shadow"}
