"""Short-lived tokens with which a web page reports rewards, so that no API key lies in a page.

A token seals the credential that requested it, the routes and its expiry time. The credential is verified on each use:
tokens end with their key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.auth.principal import Principal
from gateway.control.gateway_api import GatewayApi
from gateway.control.sealing import StoreSeal
from gateway.errors import TurnoutError

PREFIX: Final = "fb_"
SECRET: Final = "feedback-token"


class FeedbackTokens:
    """Makes and opens the tokens of one gateway."""

    def __init__(self, gateway: GatewayApi) -> None:
        self._gateway = gateway
        self._seal = StoreSeal(gateway, SECRET, b"turnout feedback token 1")

    async def make(self, credential: str, routes: Sequence[str] | None, until: int) -> str:
        """Return a token for ``credential``, valid for ``routes`` (None: those of its key) until ``until``, in seconds
        since the epoch. Raises StoreUnavailable."""
        return PREFIX + await self._seal.seal([credential, None if routes is None else list(routes), until])

    async def principal(self, token: str) -> Principal:
        """Return the principal of ``token``: that of its key, for feedback only.

        Raises unauthenticated, StoreUnavailable.
        """
        fields = await self._seal.open(token.removeprefix(PREFIX))
        if fields is None:
            raise TurnoutError(
                "unauthenticated", "This is not a feedback token of this gateway; request another."
            )
        credential, routes, until = fields
        now = self._gateway.now()
        if until <= now:
            raise TurnoutError("unauthenticated", "The feedback token has expired; request another.")
        known = self._gateway.authenticator().principal(credential.encode("utf-8", "surrogateescape"), now)
        if not known.may("feedback"):
            raise TurnoutError("unauthenticated")
        allowed = known.routes if routes is None else frozenset(filter(known.serves, routes))
        return Principal(known.id, frozenset({"feedback"}), allowed, known.bucket)
