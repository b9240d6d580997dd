"""W3C Trace Context, level 2: the cases of its own test suite and the rules behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.tracing.context import MAX_STATE_CHARACTERS, Context, declines, parse, tracestate

TRACE, SPAN = "12345678901234567890123456789012", "1234567890123456"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (GOOD, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"00-{TRACE}-{SPAN}-ff", 3),  # flags that are not known are cleared
        (f"00-{TRACE}-{SPAN}-04", 0),
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", 1),
        (f"fe-{TRACE}-{SPAN}-01-", 1),
    ],
)
def test_what_is_valid_is_read(value: str, flags: int) -> None:
    found = parse(value.encode())
    assert found == Context(bytes.fromhex(TRACE), bytes.fromhex(SPAN), flags)
    assert found.sampled == bool(flags & 1)


@pytest.mark.parametrize(
    "value",
    [
        "", "00", GOOD + ".", GOOD + "-", GOOD + "-what-the-future-will-be-like",
        f"cc-{TRACE}-{SPAN}-01.what", f"cc-{TRACE}-{SPAN}-011", f"ff-{TRACE}-{SPAN}-01",
        f".0-{TRACE}-{SPAN}-01", f"0.-{TRACE}-{SPAN}-01", f"000-{TRACE}-{SPAN}-01", f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-.{TRACE[1:]}-{SPAN}-01", f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}3-{SPAN}-01", f"00-{TRACE[:-1]}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-.{SPAN[1:]}-01", f"00-{TRACE}-{SPAN}7-01", f"00-{TRACE}-{SPAN[:-1]}-01",
        f"00-{TRACE}-{SPAN}-.0", f"00-{TRACE}-{SPAN}-0.", f"00-{TRACE}-{SPAN}-001", f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}", f"00-{TRACE.replace('1', 'A')}-{SPAN}-01", f"00_{TRACE}_{SPAN}_01",
        f"{GOOD}, {GOOD}", f" {GOOD}", f"{GOOD}\n", "é" * 55,
    ],
)  # fmt: skip
def test_what_is_not_valid_is_nobody(value: str) -> None:
    assert parse(value.encode(), b"foo=1") is None


@given(
    st.one_of(
        st.from_regex(rb"(00|01|ff)-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
        st.binary(max_size=60),
    )
)
def test_the_quick_answer_is_the_right_one(value: bytes) -> None:
    found = parse(value)
    assert declines(value) == (found is not None and not found.sampled and value.startswith(b"00"))


@pytest.mark.parametrize("zeros", [f"00-{'0' * 32}-{SPAN}-00", f"00-{TRACE}-{'0' * 16}-00"])
def test_zeros_are_not_declined_but_invalid(zeros: str) -> None:
    assert not declines(zeros.encode())


def test_a_context_is_written_as_it_is_read() -> None:
    found = parse(GOOD.encode(), b"foo=1, bar=2")
    assert found is not None
    assert found.line() == f"traceparent: {GOOD}\r\ntracestate: foo=1,bar=2\r\n".encode()
    assert parse(GOOD.encode()).line() == f"traceparent: {GOOD}\r\n".encode()  # type: ignore[union-attr]


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.integers(0, 3))
def test_any_context_survives(trace: bytes, span: bytes, flags: int) -> None:
    made = Context(trace, span, flags)
    line = made.line().removeprefix(b"traceparent: ").removesuffix(b"\r\n")
    assert parse(line) == (made if any(trace) and any(span) else None)


@given(st.binary(max_size=80), st.binary(max_size=600))
def test_nothing_makes_it_raise(parent: bytes, state: bytes) -> None:
    parse(parent, state)
    assert len(tracestate(state)) <= MAX_STATE_CHARACTERS


ALL = "".join(map(chr, (*range(0x20, 0x2C), *range(0x2D, 0x3D), *range(0x3E, 0x7F))))
KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("foo=1", "foo=1"),
        ("foo=1,bar=2", "foo=1,bar=2"),
        ("foo=1 \t , \t bar=2, \t baz=3", "foo=1,bar=2,baz=3"),
        ("foo=1,", "foo=1"),
        (",,foo=1,,", "foo=1"),
        ("", ""),
        (" \t", ""),
        ("foo=1,foo=1", "foo=1,foo=1"),
        (f"{KEY}={ALL}", f"{KEY}={ALL}"),
        (f"{KEY}@a-z0-9_-*/={ALL}", f"{KEY}@a-z0-9_-*/={ALL}"),
        ("0foo=1", "0foo=1"),
        ("foo@=1,bar=2", "foo@=1,bar=2"),
        ("foo@@bar=1", "foo@@bar=1"),
        (f"{'z' * 256}=1", f"{'z' * 256}=1"),
        (f"a={'v' * 256}", f"a={'v' * 256}"),
    ],
)
def test_a_valid_tracestate_is_kept(value: str, kept: str) -> None:
    assert tracestate(value.encode()) == kept.encode()


@pytest.mark.parametrize(
    "value",
    [
        "foo =1", "FOO=1", "foo.bar=1", "@foo=1,bar=2", "foo=bar=baz", "foo=,bar=3", "foo", "=1",
        f"{'z' * 257}=1", f"a={'v' * 257}", "a=ü", "a=\x01", ",".join(f"bar{n:02}={n:02}" for n in range(33)),
    ],
)  # fmt: skip
def test_an_invalid_tracestate_is_discarded_alone(value: str) -> None:
    found = parse(GOOD.encode(), value.encode())
    assert found is not None
    assert found.state == b""


def test_thirty_two_members_are_kept() -> None:
    value = ",".join(f"bar{n:02}={n:02}" for n in range(32)).encode()
    assert tracestate(value) == value


def test_what_is_too_long_loses_large_members_first_then_the_last() -> None:
    small = [f"k{n}={'v' * 60}" for n in range(6)]  # 6 · 63 + 5 characters
    large = ["big1=" + "v" * 130, "big2=" + "v" * 130]
    mixed = [large[0], *small, large[1]]
    assert tracestate(",".join(mixed).encode()) == ",".join(small).encode()  # both have to go
    one = [large[0], *small[:5]]  # 135 + 5 · 63 + 5 = 455
    assert tracestate(",".join([*one, large[1]]).encode()) == ",".join(one).encode()
    many = [f"k{n}={'v' * 100}" for n in range(9)]  # four fit, of 103 characters each and commas
    assert tracestate(",".join(many).encode()) == ",".join(many[:4]).encode()


def test_exactly_the_limit_is_kept() -> None:
    value = ",".join(["a=" + "v" * 254, "b=" + "v" * 253]).encode()
    assert len(value) == MAX_STATE_CHARACTERS
    assert tracestate(value) == value
    assert tracestate(value + b"v") == b"a=" + b"v" * 254
