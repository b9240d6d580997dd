"""Rewards, and tokens for pages that report them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.control.api_request import ApiRequest, json_response
from gateway.control.auth import credential
from gateway.control.endpoint import STORE, Endpoints
from gateway.control.schemas.feedback import (
    FeedbackRequest,
    FeedbackResponse,
    FeedbackTokenRequest,
    FeedbackTokenResponse,
)
from gateway.errors import TurnoutError
from gateway.ingest.rewards import Rejection

log = logging.getLogger("turnout.feedback")

endpoints: Final = Endpoints()
MAX_LOGGED: Final = 200
"""Characters of the reason of a rejection that the log has."""


@endpoints(
    "POST",
    "/-/feedback",
    "feedback",
    FeedbackResponse,
    body=FeedbackRequest,
    errors=("bad_json", "invalid", "body_too_large", *STORE),
)
async def report_rewards(request: ApiRequest) -> Response:
    """Report rewards.

    Send one reward, or up to 10000 under `items`. The response is sent once everything accepted is durable. The same
    reward again is a duplicate, another value for the same decision and metric an update, null a retraction. Refused
    items are listed by index; the others count.
    """
    items = _items(await request.json())
    principal = request.principal
    report = await request.gateway.rewards.take(
        items, may_report=principal.serves, principal=principal.id, of_others=principal.may("read")
    )
    if report.rejected:
        _log(request, report.rejected, len(items))
    return json_response(report.as_dict())


def _log(request: ApiRequest, rejected: Sequence[Rejection], items: int) -> None:
    """The status is 200, so a client that reads no further notices nothing."""
    key, first = request.principal.id, rejected[0]
    more = request.services.rejections.suffix((key, first.code))
    if more is not None:
        by, reason = f" by {key}" if key else "", first.message[:MAX_LOGGED]
        log.warning(
            "POST /-/feedback%s: %d of %d rewards rejected; item %d with %s: %s%s",
            by,
            len(rejected),
            items,
            first.index,
            first.code,
            reason,
            more,
        )


def _items(body: Any) -> list[Any]:
    """The items, unchecked: each is accepted or refused by itself."""
    if not isinstance(body, dict):
        raise TurnoutError(
            "invalid", 'Send a JSON object: {"decision_id", "metric", "value"} or {"items": [...]}.'
        )
    if "items" not in body:
        return [body]
    other = next((key for key in body if key != "items"), None)
    if other is not None:
        raise TurnoutError("invalid", f"{other!r} is not allowed next to 'items'; put it into the items.")
    if not isinstance(body["items"], list):
        raise TurnoutError("invalid", "'items' is not a list; send a list of objects.")
    return body["items"]


@endpoints(
    "POST",
    "/-/feedback/token",
    "feedback",
    FeedbackTokenResponse,
    body=FeedbackTokenRequest,
    errors=("bad_json", "invalid", "forbidden", *STORE),
)
async def make_token(request: ApiRequest) -> Response:
    """Make a token with which a web page reports rewards.

    A server requests it with its key and hands it to a page. It is valid only for POST /-/feedback, and ends with its
    key.
    """
    wanted = await request.body(FeedbackTokenRequest)
    if request.gateway.authenticator().open:
        raise TurnoutError(
            "invalid",
            "No token is needed without 'auth'; add the page to 'feedback.allow_origins'.",
        )
    for route in wanted.routes or ():
        request.must_know(route)
    until = int(request.gateway.now()) + wanted.ttl
    token = await request.services.feedback_tokens.make(
        credential(request.http).decode("utf-8", "surrogateescape"), wanted.routes, until
    )
    return json_response({"token": token, "expires": until})
