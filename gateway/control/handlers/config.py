"""GET and PUT /-/config, its history, and the way back."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from gateway.config.faults import ConfigError
from gateway.control.api_request import Ask, answer
from gateway.control.middleware import shown_fault
from gateway.control.reports.changes import changes, difference
from gateway.control.schemas.requests import ConfigQuery, ConfigText, DifferenceQuery, HistoryQuery, Restore
from gateway.errors import TurnoutError
from gateway.state.base import Revision

YAML = "application/yaml"


async def read_config(ask: Ask) -> Response:
    wanted = ask.query(ConfigQuery).revision
    found = ask.context.revision() if wanted is None else await _revision(ask, wanted)
    if ask.request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=_headers(found))
    return Response(found.document, 200, _headers(found), media_type=YAML)


def _must_be_writable(ask: Ask) -> None:
    """Raises forbidden where only the file may change the configuration."""
    if ask.context.document().config.api == "off":
        raise TurnoutError(
            "forbidden", "The configuration is changed by its file alone here ('config: {api: off}')."
        )


async def write_config(ask: Ask) -> Response:
    _must_be_writable(ask)
    try:
        text = (await ask.bytes()).decode("utf-8")
    except UnicodeDecodeError:
        raise TurnoutError(
            "bad_request", "The body is not valid UTF-8; send the YAML text in UTF-8."
        ) from None
    made = await ask.context.put_config(text, ask.author, _if_match(ask))
    return answer(_shown(made), headers=_headers(made))


async def read_history(ask: Ask) -> Response:
    limit = ask.query(HistoryQuery).limit
    current = ask.context.revision().revision
    found = await ask.context.store.revisions(limit=limit)
    return answer({"revisions": [{**_shown(r), "current": r.revision == current} for r in found]})


async def restore(ask: Ask) -> Response:
    _must_be_writable(ask)
    wanted = (await ask.body(Restore)).revision
    made = await ask.context.restore_config(wanted, ask.author, _if_match(ask))
    return answer(_shown(made), headers=_headers(made))


async def read_difference(ask: Ask) -> Response:
    """What changed between two revisions, as a unified difference."""
    query = ask.query(DifferenceQuery)
    first, second = [await _revision(ask, number) for number in (query.from_, query.to)]
    names = f"revision {first.revision}", f"revision {second.revision}"
    return answer({"difference": difference(first.document, second.document, *names)})


async def check_config(ask: Ask) -> Response:
    """What would follow from a text: its faults, or what it changes. Nothing is stored or applied."""
    text, current = (await ask.body(ConfigText)).text, ask.context.revision()
    try:
        await ask.context.check_config(text, ask.author)
    except ConfigError as error:
        return answer({"faults": [shown_fault(f) for f in error.faults], "changes": [], "difference": ""})
    said = await asyncio.to_thread(changes, current.document, text)
    names = f"revision {current.revision}", "the edit"
    return answer({"faults": [], "changes": said, "difference": difference(current.document, text, *names)})


async def _revision(ask: Ask, wanted: int) -> Revision:
    current = ask.context.revision()
    return current if wanted == current.revision else await _earlier(ask, wanted)


async def _earlier(ask: Ask, wanted: int) -> Revision:
    for found in await ask.context.store.revisions(limit=1_000_000):
        if found.revision == wanted:
            return found
    raise TurnoutError("not_found", f"There is no revision {wanted}; GET /-/config/history lists them.")


def _if_match(ask: Ask) -> str | None:
    return ask.request.headers.get("if-match")


def _headers(revision: Revision) -> dict[str, str]:
    return {"etag": revision.etag, "x-revision": str(revision.revision)}


def _shown(revision: Revision) -> dict[str, Any]:
    return {
        "revision": revision.revision,
        "time": revision.time,
        "author": revision.author,
        "origin": revision.origin,
        "etag": revision.etag,
    }
