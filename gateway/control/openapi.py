"""The OpenAPI 3.1 document, made from the table of calls and the models of their questions and answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway import build
from gateway.control.endpoint import OPEN, PARAMETERS, Call
from gateway.control.schemas.responses import ErrorAnswer, EventShape
from gateway.errors import CODES

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_EVERY: Final = ("unauthenticated", "forbidden", "rate_limited")
_NOTES: Final = {
    "if-match": "The ETag that you read, or `*`.",
    "if-none-match": "An ETag; the same text is answered with 304.",
    "last-event-id": "The id of the last event received; the stream goes on behind it.",
}
_SECURITY: Final[Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token of the provider's.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "turnout-session",
        "description": "The dashboard's login; reads only.",
    },
}


def document(calls: Sequence[Call]) -> Json:
    """The whole document, ready for JSON."""
    models = _models(calls)
    references, definitions = models_json_schema(
        [(model, "validation" if _is_question(model) else "serialization") for model in models],
        ref_template=_REF,
    )
    refs = {model.__name__: schema for (model, _), schema in references.items()}
    paths: dict[str, Json] = {}
    for call in calls:
        if call.documented:
            paths.setdefault(_path(call), {})[call.method.lower()] = _operation(call, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Turnout control API",
            "version": build.version(),
            "description": "Rewards, comparisons, steering and configuration of a Turnout gateway.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {}), "securitySchemes": _SECURITY},
    }


def _models(calls: Iterable[Call]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {ErrorAnswer: None, EventShape: None}
    for call in calls:
        for model in (call.answer, call.body):
            if isinstance(model, type):
                found[model] = None
    return list(found)


def _is_question(model: type[BaseModel]) -> bool:
    return model.__module__.endswith(".questions")


def _path(call: Call) -> str:
    return call.path.replace(":path", "")


def _operation(call: Call, refs: Json) -> Json:
    operation: Json = {
        "operationId": _identifier(call),
        "summary": call.summary,
        "tags": [call.path.split("/")[2]],
        "responses": _responses(call, refs),
    }
    if call.description:
        operation["description"] = call.description
    if call.scope != OPEN:
        operation["security"] = [{"bearer": []}, {"key": []}]
        operation["security"] += [{"session": []}] if call.scope == "read" else []
        operation["x-scope"] = call.scope
    else:
        operation["security"] = []
    if parameters := _parameters(call):
        operation["parameters"] = parameters
    if call.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(call.body, refs)}
    return operation


def _identifier(call: Call) -> str:
    words = re.findall(r"[a-z_]+", call.path.removeprefix("/-/"))
    return (
        "_".join([call.method.lower(), *words]) if call.path != "/-/dashboard" else "get_dashboard_redirect"
    )


def _parameters(call: Call) -> list[Json]:
    found: list[Json] = [
        {
            "name": p.name,
            "in": "path",
            "required": True,
            "description": p.description,
            "schema": {"type": "string"},
        }
        for p in PARAMETERS
        if f"{{{p.name}" in call.path
    ]
    if call.query is not None:
        for name, schema in call.query.model_json_schema()["properties"].items():
            one = {"name": name, "in": "query", "required": False, "schema": _plain(schema)}
            found.append(one | ({"description": schema["description"]} if "description" in schema else {}))
    found += [
        {
            "name": name,
            "in": "header",
            "required": name == "if-match",
            "description": _NOTES[name],
            "schema": _TEXT,
        }
        for name in call.headers
    ]
    return found


_TEXT: Final = {"type": "string"}


def _plain(schema: Json) -> Json:
    """A parameter that is left out is left out: null is no value of it."""
    options = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "description")}
    if kept.get("default", "") is None:
        del kept["default"]
    return kept | (options[0] if len(options) == 1 else {"anyOf": options} if options else {})


def _content(body: type[BaseModel] | str, refs: Json) -> Json:
    if isinstance(body, str):
        return {body: {"schema": _TEXT}}
    return {"application/json": {"schema": refs[body.__name__]}}


def _responses(call: Call, refs: Json) -> Json:
    good: Json = {"description": call.summary}
    if call.answer:
        good["content"] = _content(call.answer, refs)
    if call.answers:
        good["headers"] = {name: {"schema": _TEXT} for name in call.answers}
    responses = {str(call.status): good}
    codes = (*(_EVERY if call.scope != OPEN else ()), *call.errors, "internal")
    for status in sorted({CODES[code].status for code in codes}):
        named = sorted({code for code in codes if CODES[code].status == status})
        responses[str(status)] = {
            "description": " · ".join(f"`{code}`: {CODES[code].message}" for code in named),
            "content": {"application/json": {"schema": refs["ErrorAnswer"]}},
        }
    if "if-none-match" in call.headers:
        responses["304"] = {"description": "The text that If-None-Match names is still in force."}
    return responses
