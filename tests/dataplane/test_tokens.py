"""Tokens of an identity provider: what is let in, as whom, and what is not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.config.document import Jwt
from gateway.dataplane.auth import Authenticator
from gateway.dataplane.tokens import Tokens
from gateway.errors import TurnoutError

NOW = 4_000_000_000.0
GOOD: dict[str, Any] = {
    "iss": "https://id.example.com/",
    "aud": "turnout",
    "sub": "alice",
    "exp": NOW,
    "scope": "infer feedback nonsense",
    "routes": ["digits"],
}


def public(key: Any, kid: str) -> dict[str, Any]:
    algorithm = (
        jwt.algorithms.ECAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else jwt.algorithms.RSAAlgorithm
    )
    found: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return found | {"kid": kid, "use": "sig"}


@pytest.fixture(scope="module")
def ecdsa() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
async def tokens(tmp_path: Path, ecdsa: ec.EllipticCurvePrivateKey) -> Tokens:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public(ecdsa, "one")]}))
    found = Tokens(
        Jwt(
            issuer=GOOD["iss"],
            audience="turnout",
            jwks=str(path),
            routes_claim="routes",
            algorithms=("ES256", "RS256"),
        )
    )
    assert await found.fetch()
    return found


def signed(key: Any, algorithm: str = "ES256", kid: str | None = "one", **changes: Any) -> bytes:
    claims = {k: v for k, v in (GOOD | changes).items() if v is not None}
    return jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None).encode()


async def test_a_good_token_is_a_principal(tokens: Tokens, ecdsa: Any) -> None:
    principal, expiry = tokens.verify(signed(ecdsa))
    assert principal.id == "alice"
    assert principal.scopes == {"infer", "feedback"}
    assert principal.routes == {"digits"}
    assert expiry == NOW + tokens.settings.leeway


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_000_000_000},
        {"exp": None},
        {"iss": "https://evil.example.com/"},
        {"aud": "another"},
        {"sub": None},
        {"nbf": NOW - 1},
    ],
)
async def test_a_bad_claim_is_refused(tokens: Tokens, ecdsa: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(TurnoutError, match="not valid here") as refused:
        tokens.verify(signed(ecdsa, **changes))
    assert refused.value.code == "unauthenticated"


async def test_a_foreign_signature_is_refused(tokens: Tokens) -> None:
    with pytest.raises(TurnoutError):
        tokens.verify(signed(ec.generate_private_key(ec.SECP256R1())))


async def test_a_token_without_a_signature_or_with_a_shared_secret_is_refused(
    tokens: Tokens, ecdsa: Any
) -> None:
    unsigned = jwt.encode(GOOD, None, "none", headers={"kid": "one"}).encode()
    shared = jwt.encode(GOOD, "s" * 64, "HS256", headers={"kid": "one"}).encode()
    for token in (unsigned, shared, b"a.b.c", b"..", signed(ecdsa)[:-3]):
        with pytest.raises(TurnoutError):
            tokens.verify(token)


async def test_a_new_key_of_the_provider_is_fetched_when_a_token_names_it(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.dataplane.tokens.LEAST", 0.01)
    running = asyncio.create_task(tokens.run())
    await asyncio.sleep(0.05)
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    Path(tokens.settings.jwks).write_text(json.dumps({"keys": [public(new, "two")]}))
    token = signed(new, "RS256", "two")
    with pytest.raises(TurnoutError, match="not known"):
        tokens.verify(token)
    await asyncio.sleep(0.3)
    assert tokens.verify(token)[0].id == "alice"
    running.cancel()


async def test_keys_that_cannot_be_read_leave_the_old_ones(tokens: Tokens, ecdsa: Any) -> None:
    Path(tokens.settings.jwks).write_text("{")
    assert not await tokens.fetch()
    assert tokens.verify(signed(ecdsa))[0].id == "alice"


async def test_a_token_is_remembered_until_it_expires(tokens: Tokens, ecdsa: Any) -> None:
    proved = 0

    def verify(token: bytes) -> Any:
        nonlocal proved
        proved += 1
        return tokens.verify(token)

    authenticator = Authenticator({}, verify=verify)
    credential = b"Bearer " + signed(ecdsa)
    for _ in range(3):
        assert authenticator.principal(credential, NOW - 100).id == "alice"
    assert proved == 1
    authenticator.principal(credential, NOW + 1_000)
    assert proved == 2
    with pytest.raises(TurnoutError):
        authenticator.principal(b"Bearer nothing", NOW)
    with pytest.raises(TurnoutError):
        authenticator.principal(None, NOW)
