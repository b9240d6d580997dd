"""Decisions behind calls that other libraries make: the openai SDK, anthropic, httpx and requests sessions."""

from __future__ import annotations

import inspect
from typing import Any

from turnout.aio import AsyncClient
from turnout.decision import Decision, remember
from turnout.sync import Client


def attach(session: Any, client: Client | AsyncClient) -> None:
    """Let `capture` see the decisions of ``session``, whose calls stay as they are.

    Args:
        session: An ``openai.OpenAI`` or ``AsyncOpenAI`` (``anthropic``'s likewise), an ``httpx.Client`` or
            ``AsyncClient``, or a ``requests.Session``, whose base URL is the gateway's.
        client: Sends the rewards.

    Raises:
        TypeError: ``session`` is none of these.
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
    elif isinstance(getattr(session, "hooks", None), dict):
        session.hooks["response"].append(seen)
    else:
        raise TypeError(
            f"{type(session).__name__} is not known; pass an openai or anthropic client, an httpx client "
            "or a requests session"
        )


def decision_of(response: Any, client: Client | AsyncClient) -> Decision | None:
    """The decision that any response object with ``headers`` carries; None if it carries none."""
    return Decision.of(response.headers, client._put)
