"""The client library of Turnout: requests through a gateway, and rewards about its decisions.

    from turnout import Client

    with Client("http://127.0.0.1:8080", key="…") as client:
        response = client.post("/v2/models/digits/infer", json=body)
        response.decision.reward("correct", True)

It needs httpx and nothing else of the distribution.
"""

from turnout.aio import AsyncClient
from turnout.attach import attach
from turnout.decision import Decision, capture
from turnout.errors import (
    BufferFull,
    FlushTimeout,
    NoDecision,
    Rejection,
    RewardsRejected,
    TurnoutError,
)
from turnout.response import Response
from turnout.sync import Client

__all__ = [
    "AsyncClient",
    "BufferFull",
    "Client",
    "Decision",
    "FlushTimeout",
    "NoDecision",
    "Rejection",
    "Response",
    "RewardsRejected",
    "TurnoutError",
    "attach",
    "capture",
]
