"""Decisions behind calls that other libraries make: the openai SDK, anthropic, httpx and requests sessions."""

from __future__ import annotations

import inspect
from typing import Any
from uuid import uuid4

from turnout.aio import AsyncClient
from turnout.decision import Decision, remember
from turnout.sync import Client


def attach(session: Any, client: Client | AsyncClient, *, route: str = "") -> None:
    """Let `capture` see the decisions of ``session``, whose calls stay as they are.

    Args:
        session: An ``openai.OpenAI`` or ``AsyncOpenAI`` (or ``anthropic``'s), an ``httpx.Client`` or
            ``AsyncClient``, or a ``requests.Session``, whose base URL is the gateway's; or an
            ``InferenceServerClient`` of ``tritonclient.http``.
        client: Sends the rewards.
        route: The gateway's route. ``tritonclient`` alone needs it: it hides response headers, so its requests
            are known by their ids (``record: {request_ids: true}`` in the gateway's configuration).

    Raises:
        TypeError: ``session`` is none of these.
        ValueError: ``route`` is missing.
    """

    def seen(response: Any, *_: object, **__: object) -> None:
        remember(Decision.of(response.headers, client._put))

    async def seen_async(response: Any) -> None:
        seen(response)

    http = session if hasattr(session, "event_hooks") else getattr(session, "_client", None)
    if hasattr(http, "event_hooks"):
        hooks = http.event_hooks
        hooks["response"].append(seen_async if inspect.iscoroutinefunction(http.send) else seen)
        http.event_hooks = hooks
    elif hasattr(session, "register_plugin"):
        if not route:
            raise ValueError(
                "tritonclient hides response headers; name the gateway's route: attach(…, route=NAME)"
            )
        session.register_plugin(_RequestIds(client, route))
    elif isinstance(getattr(session, "hooks", None), dict):
        session.hooks["response"].append(seen)
    else:
        raise TypeError(
            f"{type(session).__name__} is not known; pass an openai, anthropic, httpx or tritonclient client, "
            "or a requests session"
        )


class _RequestIds:
    """A plugin of ``tritonclient``: each request gets an id of ours."""

    def __init__(self, client: Client | AsyncClient, route: str) -> None:
        self._client = client
        self._route = route

    def __call__(self, request: Any) -> None:
        identity = request.headers.setdefault("x-request-id", uuid4().hex)
        remember(Decision("", request_id=identity, route=self._route, _put=self._client._put))
