"""Tokens of an identity provider: what is let in, as whom, and what is not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.auth.jwt import MAX_TRIED_KEYS, Tokens
from gateway.auth.principal import Authenticator, Principal
from gateway.config.auth import JwtConfig
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
        JwtConfig(
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


@pytest.mark.parametrize("subject", ["\ud800", "a\udcff"])
async def test_a_subject_that_is_no_text_is_refused(tokens: Tokens, ecdsa: Any, subject: str) -> None:
    with pytest.raises(TurnoutError, match="token is not valid"):
        tokens.verify(signed(ecdsa, sub=subject), NOW - 100)


async def test_a_subject_that_is_the_id_of_a_key_is_refused(tokens: Tokens, ecdsa: Any) -> None:
    """Else it could report rewards on the key's requests by their ids."""
    keys = {b"digest": Principal("alice", frozenset(("read",)))}
    authenticator = Authenticator(keys, verify=tokens.verify)
    with pytest.raises(TurnoutError, match="'sub' is the id of an API key"):
        authenticator.principal(b"Bearer " + signed(ecdsa), NOW - 100)
    assert authenticator.principal(b"Bearer " + signed(ecdsa, sub="bob"), NOW - 100).id == "bob"


async def test_a_token_that_is_too_deep_is_refused(tokens: Tokens) -> None:
    header = base64.urlsafe_b64encode(b'{"a":' * 20_000).rstrip(b"=")
    with pytest.raises(TurnoutError, match="token is not valid"):
        tokens.verify(header + b".e30.e30", NOW)


async def test_a_good_token_is_a_principal(tokens: Tokens, ecdsa: Any) -> None:
    principal = tokens.verify(signed(ecdsa), NOW - 100)
    assert principal.id == "alice"
    assert principal.scopes == {"infer", "feedback"}
    assert principal.routes == {"digits"}


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": 10**400},
        {"iss": "https://evil.example.com/"},
        {"aud": "another"},
        {"sub": None},
        {"nbf": NOW - 1},
    ],
)
async def test_a_bad_claim_is_refused(tokens: Tokens, ecdsa: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(TurnoutError, match="token is not valid") as refused:
        tokens.verify(signed(ecdsa, **changes), NOW - 100)
    assert refused.value.code == "unauthenticated"


async def test_a_foreign_signature_is_refused(tokens: Tokens) -> None:
    with pytest.raises(TurnoutError):
        tokens.verify(signed(ec.generate_private_key(ec.SECP256R1())), NOW - 100)


async def test_a_token_without_a_signature_or_with_a_shared_secret_is_refused(
    tokens: Tokens, ecdsa: Any
) -> None:
    unsigned = jwt.encode(GOOD, "", "none", headers={"kid": "one"}).encode()
    shared = jwt.encode(GOOD, "s" * 64, "HS256", headers={"kid": "one"}).encode()
    for token in (unsigned, shared, b"a.b.c", b"..", signed(ecdsa)[:-3]):
        with pytest.raises(TurnoutError):
            tokens.verify(token, NOW - 100)


async def test_a_new_key_of_the_provider_is_fetched_when_a_token_names_it(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.auth.jwt.LEAST", 0.01)
    running = asyncio.create_task(tokens.run())
    await asyncio.sleep(0.05)
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    Path(tokens.settings.jwks).write_text(json.dumps({"keys": [public(new, "two")]}))
    token = signed(new, "RS256", "two")
    with pytest.raises(TurnoutError, match="is unknown"):
        tokens.verify(token, NOW - 100)
    async with asyncio.timeout(60):
        while tokens._keys[0].key_id != "two":
            await asyncio.sleep(0.05)
    assert tokens.verify(token, NOW - 100).id == "alice"
    running.cancel()


async def test_a_new_key_right_after_a_fetch_is_fetched_too(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wanted within five seconds of a fetch was forgotten, until yet another token named the key."""
    monkeypatch.setattr("gateway.auth.jwt.LEAST", 0.5)
    tokens = Tokens(tokens.settings)  # that has not fetched yet
    running = asyncio.create_task(tokens.run())
    while not tokens._keys:
        await asyncio.sleep(0.01)
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    Path(tokens.settings.jwks).write_text(json.dumps({"keys": [public(new, "two")]}))
    with pytest.raises(TurnoutError, match="is unknown"):
        tokens.verify(signed(new, "RS256", "two"), NOW - 100)
    async with asyncio.timeout(60):
        while tokens._keys[0].key_id != "two":
            await asyncio.sleep(0.05)
    running.cancel()


@pytest.mark.parametrize("text", ["{", "{}", '{"keys": [{"kty": "RSA", "alg": "none"}]}'])
async def test_keys_that_cannot_be_read_leave_the_old_ones(tokens: Tokens, ecdsa: Any, text: str) -> None:
    Path(tokens.settings.jwks).write_text(text)
    assert not await tokens.fetch()
    assert not await Tokens(tokens.settings).fetch(), "nor are there any at the start"
    assert tokens.verify(signed(ecdsa), NOW - 100).id == "alice"


async def test_a_token_is_remembered_until_it_expires(tokens: Tokens, ecdsa: Any) -> None:
    authenticator = Authenticator({}, verify=tokens.verify)
    credential = b"Bearer " + signed(ecdsa)
    first = authenticator.principal(credential, NOW - 100)
    assert first.id == "alice"
    assert authenticator.principal(credential, NOW - 50) is first
    assert authenticator.principal(credential, NOW + 1_000) is not first, "proved again"
    with pytest.raises(TurnoutError):
        authenticator.principal(b"Bearer nothing", NOW)
    with pytest.raises(TurnoutError):
        authenticator.principal(None, NOW)


async def test_a_token_does_not_outlive_the_key_that_signed_it(tokens: Tokens, ecdsa: Any) -> None:
    """S17: a withdrawn key's tokens went on until they expired, where they had been seen before."""
    authenticator = Authenticator({}, verify=tokens.verify)
    credential = b"Bearer " + signed(ecdsa)
    assert authenticator.principal(credential, NOW - 100).id == "alice"
    assert await tokens.fetch()
    assert authenticator.principal(credential, NOW - 100).id == "alice"
    other = ec.generate_private_key(ec.SECP256R1())
    Path(tokens.settings.jwks).write_text(json.dumps({"keys": [public(other, "two")]}))
    assert await tokens.fetch()
    with pytest.raises(TurnoutError, match="is unknown"):
        authenticator.principal(credential, NOW - 100)


async def test_keys_that_sign_nothing_are_left_out(tokens: Tokens) -> None:
    """A shared secret in the set would let in whoever knows it; a key for encryption signs nothing."""
    secret = {"kty": "oct", "k": "c2VjcmV0" * 6, "kid": "shared", "alg": "HS256"}
    wrapping = public(ec.generate_private_key(ec.SECP256R1()), "wrapping") | {"use": "enc"}
    good = public(ec.generate_private_key(ec.SECP256R1()), "good")
    Path(tokens.settings.jwks).write_text(json.dumps({"keys": [secret, wrapping, good]}))
    assert await tokens.fetch()
    assert [key.key_id for key in tokens._keys] == ["good"]


async def test_all_keys_that_may_have_signed_a_token_are_tried(tokens: Tokens) -> None:
    """Of several keys without an id only the last was used, and a broken one cost the whole set."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    every = [public(key, "") for key in (*keys, private)]
    for each in every:
        del each["kid"], each["use"]
        each.pop("alg", None)
    broken = [{"kty": "EC", "crv": "P-256", "x": "AA"}, {"kty": "RSA", "alg": "none"}, {"kty": "EC"}, "x"]
    Path(tokens.settings.jwks).write_text(json.dumps({"keys": [*broken, *every]}))
    assert await tokens.fetch()
    for kid in (None, "any"):
        for key in keys:
            assert tokens.verify(signed(key, kid=kid), NOW - 100).id == "alice"
        assert tokens.verify(signed(private, "RS256", kid), NOW - 100).id == "alice"
        with pytest.raises(TurnoutError, match="its signing key is unknown"):
            tokens.verify(signed(ec.generate_private_key(ec.SECP256R1()), kid=kid), NOW - 100)
    with pytest.raises(TurnoutError, match="its algorithm is not one of ES256, RS256"):
        tokens.verify(signed(private, "RS512"), NOW - 100)


async def test_a_bad_token_is_tried_with_few_keys(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(40)]
    Path(tokens.settings.jwks).write_text(json.dumps({"keys": [public(key, "same") for key in keys]}))
    assert await tokens.fetch()
    decode = Mock(wraps=jwt.decode)
    monkeypatch.setattr(jwt, "decode", decode)
    for kid in (None, "same"):
        with pytest.raises(TurnoutError):
            tokens.verify(signed(ec.generate_private_key(ec.SECP256R1()), kid=kid), NOW - 100)
    assert decode.call_count == 2 * MAX_TRIED_KEYS


class Provider(BaseHTTPRequestHandler):
    """Sends zeros without end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(4096):
                self.wfile.write(b"0" * 65_536)
                self.server.sent += 65_536  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.long
async def test_a_provider_can_not_fill_the_memory(tokens: Tokens, ecdsa: Any) -> None:
    """S29: whatever it sent was read to the end."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.sent = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        settings = tokens.settings.model_copy(update={"jwks": f"http://127.0.0.1:{server.server_port}/"})
        assert not await Tokens(settings).fetch()
        assert server.sent < 64 << 20
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


@pytest.mark.parametrize("place", ["http://id.example.com/jwks", "file:///etc/jwks", "ftp://127.0.0.1/jwks"])
def test_keys_come_over_https_or_from_a_file(place: str) -> None:
    """S29: whoever is between could sign for anybody."""
    with pytest.raises(
        ValueError, match=r"write an https address, or a file|neither an https address nor a file"
    ):
        JwtConfig(issuer="i", audience="a", jwks=place)


@pytest.mark.parametrize(
    "place", ["https://id.example.com/jwks", "http://127.0.0.1:8000/jwks", "keys/jwks.json"]
)
def test_where_keys_may_be(place: str) -> None:
    assert JwtConfig(issuer="i", audience="a", jwks=place).jwks == place
