"""A request that is answered with an error without being tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import TurnoutError

if TYPE_CHECKING:
    from gateway.dataplane.head import Head
    from gateway.dataplane.protocol import ClientProtocol

DRAIN: Final = 65_536
"""A body up to this size is read to its end so that the connection can be kept; beyond it, it is closed."""


class Refusal:
    """An item in the queue of answers owed; see `gateway.dataplane.protocol.Item`."""

    __slots__ = ("_answered", "client", "complete", "error", "head")

    def __init__(
        self, client: ClientProtocol, head: Head, error: TurnoutError, *, last: bool = False
    ) -> None:
        """``last``: nothing after it can be understood, so there is no body to wait for."""
        self.client = client
        self.head = head
        self.error = error
        self.complete = last
        self._answered = False

    def on_request_data(self, data: bytes) -> None:
        """What is refused is not kept."""

    def on_request_end(self) -> None:
        self.complete = True

    def advance(self) -> None:
        worth_draining = not self.head.expect and 0 <= self.head.length <= DRAIN
        if not self._answered and (self.complete or not worth_draining):
            self._answered = True
            self.client.answer_error(self, self.error)

    def refuse(self, error: TurnoutError) -> None:
        """The first error stands; the body will not end."""
        self.complete = True

    def client_lost(self) -> None:
        """Nobody is left to hear it."""

    def pause_answer(self) -> None:
        """It is small: nothing to hold back."""

    def resume_answer(self) -> None:
        """See `pause_answer`."""
