"""POST /-/feedback: rewards, one or many, answered once they are durable."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.control.api_request import Ask, answer
from gateway.control.auth import credential
from gateway.control.schemas.requests import FeedbackTokenRequest
from gateway.errors import TurnoutError


async def report_rewards(ask: Ask) -> Response:
    items = _items(await ask.json())
    principal = ask.principal

    def made_by(other: str) -> bool:
        """A key may report about its own requests by their ids; one that reads the record, about any."""
        return other == principal.id or principal.may("read")

    report = await ask.context.rewards.take(items, may_report=principal.serves, made_by=made_by)
    return answer(report.as_dict())


def _items(body: Any) -> list[Any]:
    """The items, not yet looked into: each is taken or refused by itself."""
    if not isinstance(body, dict):
        raise TurnoutError(
            "invalid", 'Send a JSON object: {"decision_id", "metric", "value"} or {"items": [...]}.'
        )
    if "items" not in body:
        return [body]
    others = sorted(set(body) - {"items"})
    if others:
        raise TurnoutError("invalid", f"{others[0]!r} stands beside 'items'; put it into the items.")
    if not isinstance(body["items"], list):
        raise TurnoutError("invalid", "'items' is no list; send a list of objects.")
    return body["items"]


async def make_token(ask: Ask) -> Response:
    wanted = await ask.body(FeedbackTokenRequest)
    if ask.context.authenticator().open:
        raise TurnoutError("invalid", "Without 'auth' no token is needed; list the page's origin and report.")
    for route in wanted.routes or ():
        ask.must_know(route)
    until = int(ask.context.now()) + wanted.ttl
    token = await ask.desk.feedback_tokens.make(
        credential(ask.request).decode("latin-1"), wanted.routes, until
    )
    return answer({"token": token, "expires": until})
