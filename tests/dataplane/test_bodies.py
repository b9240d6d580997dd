"""Units in cookies and queries: found in one pass, and never more than what the client wrote."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.request.body_fields import cookie, query_value

words = st.text("ab1 +%&=é", min_size=1, max_size=4).map(str.encode)


@given(pairs=st.lists(st.tuples(words, words), max_size=4), name=words, every=st.booleans())
def test_a_parameter_is_what_the_standard_library_finds(
    pairs: list[tuple[bytes, bytes]], name: bytes, every: bool
) -> None:
    def written(part: bytes) -> str:
        return "".join(f"%{byte:02X}" for byte in part) if every else quote_from_bytes(part, safe="")

    query = "&".join(f"{written(key)}={written(value)}" for key, value in pairs)
    expected = next((v for k, v in parse_qsl(query) if k == name.decode()), None)
    found = query_value(b"/p?" + query.encode(), name)
    assert found == (expected.encode() if expected is not None else None)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/p", None), (b"/user=x", None), (b"/p?user=", None), (b"/p?user", None),
        (b"/p?user&user=&user=x", b"x"), (b"/p?xuser=1&user=2", b"2"),
        (b"/p?%75SER=1&us%65r=a+b%20c", b"a b c"), (b"/p?user=%ff%", b"\xff%"), (b"/p?user=\xff", b"\xff"),
    ],
)  # fmt: skip
def test_odd_queries(target: bytes, expected: bytes | None) -> None:
    assert query_value(target, b"user") == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"", None), (b"user=x", b"x"), (b"a=b; user=x; user=y", b"x"), (b"a=b;user=x", b"x"),
        (b"xuser=1; user=2", b"2"), (b"user= x ", b"x"), (b"user=", None), (b"user", None),
        (b'user="quoted"', b'"quoted"'), (b"user=a=b", b"a=b"), (b"u.er=1", None),
    ],
)  # fmt: skip
def test_cookies(field: bytes, expected: bytes | None) -> None:
    assert cookie(field, b"user") == expected
    assert cookie(field, b"u.er") == (b"1" if b"u.er" in field else None)
