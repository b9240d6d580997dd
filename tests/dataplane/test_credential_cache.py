"""S14: what is remembered of credentials does not grow with what clients write."""

from __future__ import annotations

import hashlib

import pytest

from gateway.auth.principal import Authenticator, Principal
from gateway.errors import TurnoutError

SECRET = b"a-secret"
KEY = Principal("app", frozenset({"infer"}))


def keys() -> Authenticator:
    return Authenticator({hashlib.sha256(SECRET).digest(): KEY})


@pytest.mark.parametrize(
    "spelling", [b"Bearer a-secret", b"bearer a-secret", b"BEARER a-secret", b"a-secret"]
)
def test_a_scheme_in_any_case(spelling: bytes) -> None:
    assert keys().principal(spelling, 0.0) is KEY


@pytest.mark.parametrize(
    "spelling",
    [b"Bearer  a-secret", b"Bearer " + b" " * 50_000 + b"a-secret", b" a-secret", b"a-secret ", b"Bearer "],
)
def test_spaces_make_no_other_spelling(spelling: bytes) -> None:
    authenticator = keys()
    with pytest.raises(TurnoutError, match="is unknown"):
        authenticator.principal(spelling, 0.0)
    assert not authenticator.cache
