"""The body of a request: its pieces as they arrive, and what of them was sent on."""

from __future__ import annotations

from gateway.dataplane.request.json_body import NO_BODY, JsonBody, with_model, with_usage
from gateway.dataplane.variant import VariantPlan


class Body:
    """Pieces of one body; those that were sent are kept as long as they may be sent again."""

    __slots__ = ("chunks", "complete", "json", "paused", "replayable", "sent", "size", "wants_usage")

    chunks: list[bytes]
    size: int
    """Bytes received."""
    complete: bool
    sent: int
    """Pieces of ``chunks`` that the current attempt has sent; kept until the body is complete."""
    replayable: bool
    """Whether all of it is still here."""
    paused: bool
    """Whether the client is not being read because the backend takes no more."""
    json: JsonBody
    """What it says; read only where the route needs it."""
    wants_usage: bool
    """Whether the stream that it asks for is to end with token counts, which it does not ask for."""

    def __init__(self) -> None:
        self.chunks = []
        self.size = self.sent = 0
        self.complete = self.paused = self.wants_usage = False
        self.replayable = True
        self.json = NO_BODY

    def for_variant(self, plan: VariantPlan) -> tuple[list[bytes], int]:
        """The pieces as ``plan`` wants them, and their bytes."""
        if plan.model is None and not self.wants_usage:
            return self.chunks, self.size
        rewritten = b"".join(self.chunks)
        if plan.model is not None:
            rewritten = with_model(rewritten, self.json, plan.model)
        if self.wants_usage:
            rewritten = with_usage(rewritten, self.json)
        return [rewritten], len(rewritten)

    def take_unsent(self) -> list[bytes]:
        """What came since the last call."""
        unsent = self.chunks[self.sent :]
        self.sent = len(self.chunks)
        return unsent

    def rewind(self) -> None:
        """Begins again: what was sent must be sent again, to another address."""
        self.sent = 0

    def drop_sent(self) -> None:
        """Frees what was sent; no other attempt can send it."""
        self.replayable = False
        self.chunks.clear()
        self.sent = 0
