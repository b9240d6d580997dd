"""Who is asking: a credential becomes a principal.

The hot path is one dict lookup by the credential's bytes. Only credentials that were proved good get
into that dict, so a stranger can neither fill it nor learn anything from it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import TurnoutError
from gateway.http.browsers import Browsers

SCOPES: Final = ("infer", "feedback", "read", "metrics", "force-variant", "steer", "config", "admin")
MAX_CACHED_CREDENTIALS: Final = 10_000
"""Most credentials remembered; beyond it the cache is emptied (a fleet of short-lived tokens)."""


class Bucket:
    """A token bucket: ``rate`` requests a second, with a burst of as many (at least one).

    Where several processes serve one key, each has a copy and uses its ``part`` of the rate; `gateway.loops.rates`
    settles the copies through a store that all of them share.
    """

    __slots__ = ("burst", "level", "part", "rate", "short", "spent", "then")

    def __init__(self, rate: float, burst: float = 0.0, *, part: float = 1.0) -> None:
        self.rate = rate
        self.burst = burst or max(rate, 1.0)
        self.part = part
        self.level = max(self.burst * part, 1.0)
        self.then = 0.0
        self.spent = 0.0
        """Requests that passed since the copies were settled."""
        self.short = False
        """Whether one was refused since then."""

    def take(self, now: float) -> float:
        """0.0 if a request may pass now, else the seconds to wait."""
        wait = self.wait(now)
        if wait == 0.0:
            self.level -= 1.0
            self.spent += 1.0
        else:
            self.short = True
        return wait

    def wait(self, now: float) -> float:
        """Seconds until a request may pass; takes nothing."""
        rate = self.rate * self.part
        self.level = min(max(self.burst * self.part, 1.0), self.level + (now - self.then) * rate)
        self.then = now
        return 0.0 if self.level >= 1.0 else (1.0 - self.level) / rate

    def settle(self, level: float, part: float, now: float) -> None:
        """Takes over what the shared bucket holds: of more than one request this copy may spend ``part``."""
        self.part = part
        self.level = level if level <= 1.0 else max(level * part, 1.0)
        self.then = now


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """Who asks, and what they may do."""

    id: str
    scopes: frozenset[str]
    routes: frozenset[str] | None = None
    """None: every route."""
    bucket: Bucket | None = None
    infer: bool = field(init=False)
    force: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "infer", self.may("infer"))
        object.__setattr__(self, "force", self.may("force-variant"))

    def may(self, scope: str) -> bool:
        """``admin`` includes every scope."""
        return scope in self.scopes or "admin" in self.scopes

    def serves(self, route: str) -> bool:
        return self.routes is None or route in self.routes


ANYONE: Final = Principal("", frozenset(("infer", "feedback", "read", "metrics")))
"""A client of a gateway without ``auth``: it may use and read, but neither force nor change anything."""
LOCAL: Final = Principal("", frozenset(SCOPES))
"""The same from the loopback interface, with no proxy between."""

Verifier = Callable[[bytes, float], Principal]
"""The principal of a bearer token that is not an API key, at a time in seconds since the epoch; raises TurnoutError."""


def basic_password(encoded: bytes) -> bytes:
    """The password of ``Basic ENCODED`` (RFC 7617), or the user if the password is empty; b"" if it can't be read."""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).partition(b":")
    except ValueError:
        return b""
    return password or user


class Authenticator:
    """Knows the principals of one configuration."""

    def __init__(
        self,
        keys: Mapping[bytes, Principal] | None,
        *,
        verify: Verifier | None = None,
        browsers: Browsers | None = None,
        basic: bool = False,
    ) -> None:
        """``keys`` maps sha256 digests of secrets to principals; None means no authentication at all.

        ``browsers``: what pages may do then. ``basic``: whether the secret may be the password of HTTP Basic.
        """
        self._basic = basic
        self.open = keys is None and verify is None
        self.browsers = browsers if browsers is not None else Browsers()
        self._keys = keys or {}
        self._key_ids = frozenset(principal.id for principal in self._keys.values())
        self._verify = verify
        self.cache: dict[bytes, Principal] = {}
        """By credential; keys alone, for a token is good only as long as the key that signed it."""

    def principal(self, credential: bytes | None, now: float) -> Principal:
        """The principal behind ``credential``: an Authorization value ("Bearer …") or a bare key.

        Raises TurnoutError("unauthenticated").
        """
        if credential is None:
            raise TurnoutError("unauthenticated")
        known = self.cache.get(credential)
        if known is not None:
            return known
        scheme, _, rest = credential.partition(b" ")
        if self._basic and scheme.lower() == b"basic":
            return self._principal_of_basic(rest, now)
        secret = rest if rest and scheme.lower() == b"bearer" else credential
        principal = self._keys.get(hashlib.sha256(secret).digest())
        if principal is None:
            return self._by_token(secret, now)
        if len(self.cache) >= MAX_CACHED_CREDENTIALS:
            self.cache.clear()
        self.cache[credential] = principal
        return principal

    def allows(self, credential: bytes | None, route: str, now: float) -> bool:
        """Whether ``credential`` still leads to ``route``."""
        if self.open:
            return True
        try:
            principal = self.principal(credential, now)
        except TurnoutError:
            return False
        return principal.infer and principal.serves(route)

    def visitor(self, method: bytes, host: bytes, fields: Mapping[bytes, bytes], *, near: bool) -> Principal:
        """The principal of a request without authentication, whatever credential it carries.

        ``fields``: those of `browsers.FIELDS`. ``near``: whether it came over loopback and past no proxy.

        Raises TurnoutError("forbidden") for what only a page of another site makes a browser send.
        """
        return LOCAL if self.browsers.check(method, host, fields) and near else ANYONE

    def _principal_of_basic(self, encoded: bytes, now: float) -> Principal:
        """Never cached: one secret has as many spellings as there are user names."""
        secret = basic_password(encoded)
        principal = self._keys.get(hashlib.sha256(secret).digest())
        return principal if principal is not None else self._by_token(secret, now)

    def _by_token(self, secret: bytes, now: float) -> Principal:
        if self._verify is not None and secret.count(b".") == 2:
            principal = self._verify(secret, now)
            if principal.id in self._key_ids:  # the record and the history would take one for the other
                raise TurnoutError(
                    "unauthenticated",
                    "The token's 'sub' is the id of an API key; give the key another id in the configuration.",
                )
            return principal
        raise TurnoutError(
            "unauthenticated", "The key is unknown; check it, or generate one with 'turnout keys new'."
        )
