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
MAX_TRIED_KEYS: Final = 16
"""A token is verified with this many keys at most: a bad one must not cost more than a few milliseconds."""
LEAST: Final = 5.0
"""Seconds between two fetches, however many tokens name an unknown key."""


class Tokens:
    """Verifies tokens of one configuration's ``auth.jwt``."""

    def __init__(self, settings: JwtConfig) -> None:
        self.settings = settings
        self._keys: list[jwt.PyJWK] = []
        """One for each algorithm of each key."""
        self._document: dict[str, Any] | None = None
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
        try:
            claims = self._claims(token)
            str(claims["sub"]).encode()  # text that can be recorded
            expiry = float(claims["exp"])
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise TurnoutError("unauthenticated", f"The token is not valid: {error}.") from error
        return self._principal(claims), expiry + self.settings.leeway

    def _claims(self, token: bytes) -> dict[str, Any]:
        """What the token says, if one of the keys has signed it. Raises PyJWTError, ValueError and others."""
        s, header = self.settings, jwt.get_unverified_header(token)
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in s.algorithms:
            raise jwt.InvalidAlgorithmError(f"its algorithm is not one of {', '.join(s.algorithms)}")
        named = [key for key in self._keys if None in (kid, key.key_id) or str(key.key_id) == kid]
        for key in [key for key in named if key.algorithm_name == algorithm][:MAX_TRIED_KEYS]:
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[key.algorithm_name],
                    audience=s.audience,
                    issuer=s.issuer,
                    leeway=s.leeway,
                    options={"require": ["exp", "iss", "aud", "sub"]},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
                continue
        if kid is not None and any(key.key_id is not None for key in named):
            raise jwt.InvalidSignatureError("its key has not signed it")
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
            if document == self._document:
                return True
            keys = [key for each in document["keys"] for key in self._usable(each)]
            if not keys:
                raise ValueError("none can be used")
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
            httpx.HTTPError,
            httpx.InvalidURL,
        ) as error:
            log.warning("the keys of auth.jwt could not be read: %s", str(error) or type(error).__name__)
            return False
        # A key may have been withdrawn, and with it what it had signed.
        self._document, self._keys = document, keys
        self._proved.clear()
        return True

    def _usable(self, key: Any) -> list[jwt.PyJWK]:
        """The key for the algorithm that it names, or for each that fits; none if it proves no signature."""
        if not isinstance(key, dict) or not _signs(key):
            return []
        found, fault = list[jwt.PyJWK](), None
        for algorithm in self.settings.algorithms:
            if key.get("alg", algorithm) == algorithm:
                try:
                    found.append(jwt.PyJWK(key, algorithm))
                except Exception as error:  # noqa: BLE001 - one broken key must not cost the others (RFC 7517, 5)
                    fault = error
        if not found and fault is not None:
            log.warning("a key of auth.jwt can't be used: %s", fault)
        return found

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


def _signs(key: dict[str, Any]) -> bool:
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
