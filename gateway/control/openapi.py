"""The OpenAPI 3.1 document, made from the endpoints and the models of their requests and responses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gateway import build
from gateway.control.endpoint import ENGINE, OPEN, PATH_PARAMETERS, Endpoint
from gateway.control.schemas.errors import ErrorResponse
from gateway.control.schemas.events import EventModel
from gateway.errors import CODES

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_TEXT: Final = {"type": "string"}
_COMMON_ERRORS: Final = ("unauthenticated", "forbidden", "rate_limited")
_HEADERS: Final = {
    "x-variant": "Forces this variant; needs the scope force-variant.",
    "if-match": "The ETag that you read, or `*`.",
    "if-none-match": "An ETag; the response is 304 if the text in force still has it.",
    "x-turnout-node": "The name of the node.",
    "last-event-id": "The id of the last event received; the stream continues after it.",
}
"""Request header → its description."""
_SECURITY: Final[Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a JWT of the configured issuer.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "turnout-session",
        "description": "The dashboard's session cookie.",
    },
}


def document(endpoints: Sequence[Endpoint]) -> Json:
    """Return the whole document, ready for JSON."""
    references, definitions = models_json_schema(_models(endpoints), ref_template=_REF)
    refs = {model.__name__: schema for (model, _), schema in references.items()}
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        if endpoint.documented:
            paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, refs)
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


def _models(endpoints: Iterable[Endpoint]) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    responses: list[type[BaseModel] | str] = [ErrorResponse, EventModel, *(e.response for e in endpoints)]
    bodies = [endpoint.body for endpoint in endpoints]
    models: dict[type[BaseModel], JsonSchemaMode] = {}
    models |= {model: "serialization" for model in responses if isinstance(model, type)}
    models |= {model: "validation" for model in bodies if isinstance(model, type)}
    return list(models.items())


def _operation(endpoint: Endpoint, refs: Json) -> Json:
    operation: Json = {
        "operationId": _identifier(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.path.split("/")[2]],
        "responses": _responses(endpoint, refs),
        "security": [],
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.scope != OPEN:
        operation["security"] = [{"bearer": []}, *([{"key": []}] if endpoint.scope != ENGINE else [])]
        operation["security"] += [{"session": []}] if endpoint.scope in ("read", "steer", "config") else []
        operation["x-scope"] = endpoint.scope
    if parameters := [*_path_parameters(endpoint), *_query_parameters(endpoint), *_headers(endpoint)]:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.body, refs)}
    return operation


def _identifier(endpoint: Endpoint) -> str:
    if endpoint.path == "/-/dashboard":
        return "get_dashboard_redirect"  # /-/dashboard/ has the same words
    words = re.findall(r"[a-z_]+", endpoint.path.removeprefix("/-/"))
    return "_".join([endpoint.method.lower(), *words])


def _path_parameters(endpoint: Endpoint) -> Iterator[Json]:
    for name, description in PATH_PARAMETERS.items():
        if f"{{{name}}}" in endpoint.path:
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "description": description,
                "schema": _TEXT,
            }


def _query_parameters(endpoint: Endpoint) -> Iterator[Json]:
    if endpoint.query is None:
        return
    schema = endpoint.query.model_json_schema()
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        shown = {"name": name, "in": "query", "required": required, "schema": _without_null(field)}
        yield shown | ({"description": field["description"]} if "description" in field else {})


def _headers(endpoint: Endpoint) -> Iterator[Json]:
    for name in endpoint.request_headers:
        yield {
            "name": name,
            "in": "header",
            "required": name == "if-match",
            "description": _HEADERS[name],
            "schema": _TEXT,
        }


def _without_null(schema: Json) -> Json:
    """The schema of a parameter: one that is absent has no value, null included."""
    options = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "description")}
    if kept.get("default", "") is None:
        del kept["default"]
    return kept | (options[0] if len(options) == 1 else {"anyOf": options} if options else {})


def _content(body: type[BaseModel] | str, refs: Json) -> Json:
    if isinstance(body, str):
        return {body: {"schema": _TEXT}}
    return {"application/json": {"schema": refs[body.__name__]}}


def _responses(endpoint: Endpoint, refs: Json) -> Json:
    good: Json = {"description": endpoint.summary}
    if endpoint.response:
        good["content"] = _content(endpoint.response, refs)
    if endpoint.response_headers:
        good["headers"] = {name: {"schema": _TEXT} for name in endpoint.response_headers}
    responses = {str(endpoint.status): good}
    codes = (*(_COMMON_ERRORS if endpoint.scope != OPEN else ()), *endpoint.errors, "internal")
    if endpoint.media_type and endpoint.scope not in (OPEN, ENGINE):
        codes = (*codes, "unsupported_media_type")
    for status in sorted({CODES[code].status for code in codes}):
        named = sorted({code for code in codes if CODES[code].status == status})
        responses[str(status)] = {
            "description": " · ".join(f"`{code}`: {CODES[code].message}" for code in named),
            "content": {"application/json": {"schema": refs["ErrorResponse"]}},
        }
    if "if-none-match" in endpoint.request_headers:
        responses["304"] = {"description": "The text in force still has the ETag of If-None-Match."}
    return responses
