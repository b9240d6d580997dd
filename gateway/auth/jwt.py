"""Tokens of an identity provider (JWT, RFC 7519) as an alternative to API keys.

The provider's public keys are fetched in the background and looked at synchronously: a request never waits for
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import httpx
import jwt

from gateway.auth.principal import MAX_CACHED_CREDENTIALS, SCOPES, Principal
from gateway.config.auth import JwtConfig
from gateway.errors import TurnoutError

log = logging.getLogger("turnout.tokens")

RETRY: Final = 10.0
"""Seconds after which failed fetching of the keys is tried again."""
FETCH_S: Final = 10.0
"""Timeout of a fetch of the keys, seconds; a provider that sends a byte now and then must not hold it."""
MAX_KEY_SET_BYTES: Final = 1 << 20
LEAST: Final = 5.0
"""Seconds between two fetches, however many tokens name an unknown key."""


class Tokens:
    """Verifies tokens of one configuration's ``auth.jwt``."""

    def __init__(self, settings: JwtConfig) -> None:
        self.settings = settings
        self._keys: dict[str, jwt.PyJWK] = {}
        self._document: dict[str, Any] = {}
        self._proved: dict[bytes, tuple[Principal, float]] = {}
        """By SHA-256 of the token: whose it is, and until when."""
        self._wanted = asyncio.Event()

    def verify(self, token: bytes, now: float) -> Principal:
        """Whose token it is. Raises TurnoutError("unauthenticated").

        One that was proved good is remembered until it expires or the provider's keys change.
        """
        digest = hashlib.sha256(token).digest()
        known = self._proved.get(digest)
        if known is not None and known[1] > now:
            return known[0]
        principal, expiry = self._decode(token)
        if len(self._proved) >= MAX_CACHED_CREDENTIALS:
            self._proved.clear()
        self._proved[digest] = principal, expiry
        return principal

    def _decode(self, token: bytes) -> tuple[Principal, float]:
        s = self.settings
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header.get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=list(s.algorithms),
                audience=s.audience,
                issuer=s.issuer,
                leeway=s.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            str(claims["sub"]).encode()  # text that can be recorded
            expiry = float(claims["exp"])
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise TurnoutError("unauthenticated", f"The token is not valid: {error}.") from error
        return self._principal(claims), expiry + s.leeway

    def _key(self, kid: object) -> jwt.PyJWK:
        if isinstance(kid, str) and kid in self._keys:
            return self._keys[kid]
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        self._wanted.set()  # the provider may have new keys; this token has to be sent once more
        raise jwt.InvalidKeyError("its signing key is unknown; send it again in a moment")

    def _principal(self, claims: dict[str, Any]) -> Principal:
        scopes = frozenset(_words(claims.get(self.settings.scopes_claim))) & frozenset(SCOPES)
        routes = None
        if self.settings.routes_claim is not None:
            routes = frozenset(_words(claims.get(self.settings.routes_claim)))
        return Principal(str(claims["sub"]), scopes, routes)

    async def run(self) -> None:
        """Fetches the keys now, then every ``refresh`` seconds, and when a token names an unknown one."""
        while True:
            self._wanted.clear()
            rest = self.settings.refresh if await self.fetch() else RETRY
            await asyncio.sleep(min(LEAST, rest))
            # Not `wait_for`: until Python 3.12 it loses a cancellation that comes in the moment of the waking.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, rest - LEAST)):
                    await self._wanted.wait()

    async def fetch(self) -> bool:
        """Whether the keys could be had; if not, the old ones stay."""
        try:
            document = await self._read()
            keys = jwt.PyJWKSet.from_dict({"keys": [k for k in document["keys"] if _signs(k)]}).keys
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RuntimeError,  # nested too deeply, or not implemented: a key with the algorithm "none"
            httpx.HTTPError,
            httpx.InvalidURL,
            jwt.PyJWTError,
        ) as error:
            log.warning("the keys of auth.jwt could not be read: %s", str(error) or type(error).__name__)
            return False
        if document != self._document:
            # A key may have been withdrawn, and with it what it had signed.
            self._document = document
            self._keys = {str(key.key_id): key for key in keys}
            self._proved.clear()
        return True

    async def _read(self) -> dict[str, Any]:
        place = self.settings.jwks
        if place.startswith(("http://", "https://")):
            async with (
                asyncio.timeout(FETCH_S),
                httpx.AsyncClient(timeout=None) as client,
                client.stream("GET", place) as answer,
            ):
                answer.raise_for_status()
                found: dict[str, Any] = json.loads(await _bounded(answer))
                return found
        text = await asyncio.to_thread(Path(place).read_text)
        parsed: dict[str, Any] = json.loads(text)
        return parsed


def _signs(key: Any) -> bool:
    """Whether it may prove a signature: one of a pair, and not for encryption."""
    return key.get("kty") in ("RSA", "EC", "OKP") and key.get("use", "sig") == "sig"


async def _bounded(answer: httpx.Response) -> bytes:
    """The body. Raises ValueError where it has more than `MAX_KEY_SET_BYTES`."""
    body = b""
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > MAX_KEY_SET_BYTES:
            raise ValueError(f"the response has more than {MAX_KEY_SET_BYTES} bytes")
    return body


def _words(value: object) -> Iterable[str]:
    """A claim that is a list, or one text with spaces."""
    if isinstance(value, str):
        return value.split()
    return [str(word) for word in value] if isinstance(value, list) else []
