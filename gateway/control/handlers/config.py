"""The configuration: read, replace, check, restore."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.responses import Response

from gateway.compile.etags import no_revision
from gateway.config.faults import ConfigError
from gateway.control.api_request import ApiRequest, json_response
from gateway.control.endpoint import STORE, YAML, Endpoints
from gateway.control.middleware import fault_json
from gateway.control.reports.changes import changes, difference, share_changes
from gateway.control.schemas.config import (
    ConfigCheckRequest,
    ConfigCheckResponse,
    ConfigQuery,
    DifferenceQuery,
    DifferenceResponse,
    EditQuery,
    HistoryQuery,
    RestoreRequest,
    RevisionResponse,
    RevisionsResponse,
)
from gateway.errors import TurnoutError
from gateway.state.base import MAX_REVISION_TEXTS, Revision, RevisionEntry

endpoints: Final = Endpoints()


@endpoints(
    "GET",
    "/-/config",
    "config",
    YAML,
    query=ConfigQuery,
    request_headers=("if-none-match",),
    response_headers=("etag", "x-revision"),
    errors=("not_found", *STORE),
)
async def read_config(request: ApiRequest) -> Response:
    """Get the configuration in force."""
    number = request.query(ConfigQuery).revision
    revision = request.gateway.revision() if number is None else await _revision(request, number)
    if request.http.headers.get("if-none-match") == revision.etag:
        return Response(status_code=304, headers=_headers(revision))
    return Response(revision.document, 200, _headers(revision), media_type=YAML)


def _must_be_writable(request: ApiRequest) -> None:
    """Raises forbidden if only the file may change the configuration."""
    if request.gateway.document().config.api == "off":
        raise TurnoutError("forbidden", "The configuration says 'config: {api: off}'; edit its file instead.")


@endpoints(
    "PUT",
    "/-/config",
    "config",
    RevisionResponse,
    query=EditQuery,
    body=YAML,
    request_headers=("if-match",),
    response_headers=("etag", "x-revision"),
    errors=(
        "bad_request",
        "invalid",
        "precondition_required",
        "precondition_failed",
        "body_too_large",
        *STORE,
    ),
)
async def write_config(request: ApiRequest) -> Response:
    """Replace the configuration.

    It is validated first: a text with a fault is refused with every fault, and changes nothing.
    """
    _must_be_writable(request)
    reason = request.query(EditQuery).reason
    try:
        text = (await request.bytes()).decode("utf-8")
    except UnicodeDecodeError:
        raise TurnoutError(
            "bad_request", "The body is not valid UTF-8; send the YAML text in UTF-8."
        ) from None
    revision = await request.gateway.revisions.propose(
        text, request.author, _if_match(request), reason=reason
    )
    return json_response(_revision_json(revision), headers=_headers(revision))


@endpoints("GET", "/-/config/history", "config", RevisionsResponse, query=HistoryQuery, errors=STORE)
async def read_history(request: ApiRequest) -> Response:
    """List earlier configurations."""
    limit = request.query(HistoryQuery).limit
    current = request.gateway.revision().revision
    entries = await request.gateway.store.revision_entries(limit=limit)
    kept = max((entry.revision for entry in entries), default=0) - MAX_REVISION_TEXTS
    rows = [
        {**_revision_json(entry), "current": entry.revision == current, "kept": entry.revision > kept}
        for entry in entries
    ]
    return json_response({"revisions": rows})


@endpoints(
    "POST",
    "/-/config/restore",
    "config",
    RevisionResponse,
    body=RestoreRequest,
    request_headers=("if-match",),
    response_headers=("etag", "x-revision"),
    errors=("bad_json", "invalid", "not_found", "precondition_required", "precondition_failed", *STORE),
)
async def restore(request: ApiRequest) -> Response:
    """Put an earlier configuration in force again."""
    _must_be_writable(request)
    asked = await request.body(RestoreRequest)
    revision = await request.gateway.revisions.restore(
        asked.revision, request.author, _if_match(request), reason=asked.reason
    )
    return json_response(_revision_json(revision), headers=_headers(revision))


@endpoints(
    "GET",
    "/-/config/difference",
    "config",
    DifferenceResponse,
    query=DifferenceQuery,
    errors=("not_found", "invalid", *STORE),
)
async def read_difference(request: ApiRequest) -> Response:
    """Compare two revisions."""
    query = request.query(DifferenceQuery)
    first, second = [await _revision(request, number) for number in (query.from_, query.to)]
    names = f"revision {first.revision}", f"revision {second.revision}"
    found = await asyncio.to_thread(difference, first.document, second.document, *names)
    return json_response({"difference": found})


@endpoints(
    "POST",
    "/-/config/check",
    "config",
    ConfigCheckResponse,
    body=ConfigCheckRequest,
    errors=("bad_json", "invalid", "body_too_large", *STORE),
)
async def check_config(request: ApiRequest) -> Response:
    """Check a configuration.

    The response lists its faults or, if it has none, its changes in words and as a difference. Nothing is stored or
    applied.
    """
    text, current = (await request.body(ConfigCheckRequest)).text, request.gateway.revision()
    try:
        after = await request.gateway.check_config(text, request.author)
    except ConfigError as error:
        faults = [fault_json(fault) for fault in error.faults]
        return json_response({"faults": faults, "changes": [], "shares": {}, "difference": ""})
    shares = share_changes({name: _shares(request, name) for name in after}, after)
    sentences = await asyncio.to_thread(changes, current.document, text, shares)
    names = f"revision {current.revision}", "the edit"
    text_difference = await asyncio.to_thread(difference, current.document, text, *names)
    return json_response(
        {"faults": [], "changes": sentences, "shares": shares, "difference": text_difference}
    )


def _shares(request: ApiRequest, name: str) -> dict[str, float]:
    """The shares of a route now; empty if there is no such route."""
    status = request.gateway.route_status(name)
    return {} if status is None else status.allocation.as_dict()


async def _revision(request: ApiRequest, number: int) -> Revision:
    """Raises not_found."""
    current = request.gateway.revision()
    if number == current.revision:
        return current
    for revision in await request.gateway.store.revisions(limit=1, until=number):
        if revision.revision == number:
            return revision
    raise TurnoutError("not_found", no_revision(number))


def _if_match(request: ApiRequest) -> str | None:
    return request.http.headers.get("if-match")


def _headers(revision: Revision) -> dict[str, str]:
    return {"etag": revision.etag, "x-revision": str(revision.revision)}


def _revision_json(revision: RevisionEntry) -> dict[str, Any]:
    return {
        "revision": revision.revision,
        "time": revision.time,
        "author": revision.author,
        "origin": revision.origin,
        "etag": revision.etag,
    }
