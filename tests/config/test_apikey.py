"""The form of an API key."""

from __future__ import annotations

import hashlib
import re
import zlib

import pytest

from gateway.config.apikey import key_hash, new_secret

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def value(text: str) -> int:
    number = 0
    for digit in text:
        number = number * 62 + DIGITS.index(digit)
    return number


def test_every_bit_is_in_the_secret() -> None:
    for bits in (bytes(32), b"\xff" * 32, bytes(range(32))):
        secret = new_secret(bits)
        assert re.fullmatch(r"tk_[0-9A-Za-z]{49}", secret)
        assert value(secret[3:46]).to_bytes(32, "big") == bits
        assert value(secret[46:]) == zlib.crc32(secret[:46].encode())


def test_two_keys_differ() -> None:
    assert len({new_secret() for _ in range(100)}) == 100


def test_the_hash_is_that_of_the_whole_secret() -> None:
    secret = new_secret()
    assert key_hash(secret) == "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def test_only_32_bytes_make_a_key() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        new_secret(b"short")
