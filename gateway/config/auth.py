"""The section ``auth``: keys, tokens, and where clients may put them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gateway.config.model import ConfigModel, Name, OneOrMore, is_web_address
from gateway.config.units import Duration, PositiveDuration, Rate
from gateway.http.browsers import is_loopback

CredentialPlace = Literal["api-key", "x-goog-api-key", "basic", "websocket"]
Scope = Literal["infer", "feedback", "read", "metrics", "force-variant", "steer", "config", "admin"]


def _digest(value: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise ValueError(
            "this is not the hash of a key; write 'sha256:' and 64 hexadecimal digits ('turnout keys new')"
        )
    return value


def _key_set(value: str) -> str:
    scheme, separator, _ = value.partition("://")
    if not separator and not re.match(r"//|[A-Za-z][A-Za-z0-9+.-]+:", value):
        return value
    if scheme in ("http", "https") and not is_web_address(value):
        raise ValueError(
            "this is not an address; write one such as https://id.example.com/keys.json, or a file"
        )
    host = urlsplit(value).hostname or ""
    if scheme == "https" or (scheme == "http" and (host == "localhost" or is_loopback(host))):
        return value
    if scheme != "http":
        raise ValueError("this is neither an https address nor a file; write one of them")
    raise ValueError("over plain http an attacker could replace the keys; write an https address, or a file")


class KeyConfig(ConfigModel):
    """An API key, stored only as a hash; ``turnout keys new`` generates both."""

    id: Name
    hash: Annotated[str, AfterValidator(_digest)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    routes: tuple[Name, ...] | None = None
    """Routes that the key may use; if absent, all routes."""
    rate: Rate | None = None
    """Maximum request rate; if absent, no limit."""

    @property
    def digest(self) -> bytes:
        """The hash, 32 bytes."""
        return bytes.fromhex(self.hash.removeprefix("sha256:"))


class JwtConfig(ConfigModel):
    """Tokens of an identity provider, as an alternative to keys."""

    issuer: str
    audience: str
    jwks: Annotated[str, AfterValidator(_key_set)]
    """The provider's public keys: an https URL (http on this machine), or a file."""
    refresh: PositiveDuration = 300.0
    """How long fetched keys are used before they are fetched again."""
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"], ...],
        Field(min_length=1),
    ] = ("RS256", "ES256")
    scopes_claim: str = "scope"
    """Claim with the scopes: a list, or a string separated by spaces."""
    routes_claim: str | None = None
    """Claim with the routes, a list or a string separated by spaces; if absent, all routes."""
    leeway: Duration = 30.0
    """Maximum difference between the provider's clock and the gateway's."""


class DashboardAccessConfig(ConfigModel):
    steer: bool = True
    """Whether a dashboard login may steer and configure, if its key may and the login requests it."""


class AuthConfig(ConfigModel):
    keys: tuple[KeyConfig, ...] = ()
    jwt: JwtConfig | None = None
    accept: Annotated[tuple[CredentialPlace, ...], OneOrMore] = ()
    """Where else clients may put a key or token, besides `authorization: Bearer` and `x-api-key`."""
    dashboard: DashboardAccessConfig = DashboardAccessConfig()

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if not self.keys and self.jwt is None:
            raise ValueError(
                "no key or token would be accepted; write 'keys', 'jwt' or both, or leave 'auth' out"
            )
        return self
