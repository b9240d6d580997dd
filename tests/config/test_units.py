"""Durations, shares, rates, sizes: what they read, what they refuse, and that they write what they read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2), ("10m", 600), ("1h", 3600), ("7d", 604800), ("1.5 s", 1.5), ("50us", 5e-5)],
)
def test_duration(text: str, seconds: float) -> None:
    assert units.duration(text) == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize("zero", [0, "0", 0.0, "0s"])
def test_nothing_needs_no_unit(zero: object) -> None:
    assert units.duration(zero) == 0


@pytest.mark.parametrize(
    ("value", "hint"),
    [(5, "write 5s if"), ("5", "write 5s if"), ("1:30", "such as 250ms"), ("-1s", "such as"),
     ("1w", "such as"), (True, "such as"), (None, "such as"), ("", "such as"), ("s", "such as"),
     ([1], "such as"), ("٣s", "such as")],
)  # fmt: skip
def test_what_is_no_duration(value: object, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        units.duration(value)


def test_numbers_beyond_floats_are_refused() -> None:
    for parse, text in (
        (units.duration, "1000001d"),
        (units.duration, "9" * 400 + "d"),
        (units.share, "9" * 400 + "%"),
    ):
        with pytest.raises(ValueError, match=r"write at most 1000000d|too large|more than the whole"):
            parse(text)
    with pytest.raises(ValueError, match="too large"):
        units.amount(10**400)
    with pytest.raises(ValueError, match="too large"):
        units.size("9" * 400 + "GiB")


@pytest.mark.parametrize(
    ("value", "share"),
    [("5%", 0.05), ("100%", 1), (0.05, 0.05), ("0.05", 0.05), (1, 1), (0, 0), ("0.5 %", 0.005)],
)
def test_share(value: object, share: float) -> None:
    assert units.share(value) == share


@pytest.mark.parametrize(
    ("value", "hint"),
    [(5, "write 5%"), ("101%", "write 100% or less"), (500, "write 100% or less"), (-0.1, "write it as 5%"),
     ("five", "write it as 5%"), (float("nan"), "write it as 5%"), (True, "write it as 5%")],
)  # fmt: skip
def test_what_is_no_share(value: object, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        units.share(value)


@pytest.mark.parametrize(("text", "rate"), [("200/s", 200), ("60/m", 1), ("1800/h", 0.5), ("86400/d", 1)])
def test_rate(text: str, rate: float) -> None:
    assert units.rate(text) == rate


@pytest.mark.parametrize("value", [200, "200", "0/s", "200/w", "200s", None])
def test_what_is_no_rate(value: object) -> None:
    with pytest.raises(ValueError, match="write"):
        units.rate(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("64KiB", 65536), ("1MiB", 1048576), ("10MB", 10**7), (17, 17), ("17", 17), ("0.5KiB", 512),
        ("2GiB", 2**31),
    ],
)  # fmt: skip
def test_size(value: object, size: int) -> None:
    assert units.size(value) == size


@pytest.mark.parametrize("value", ["64K", "1.3B", -1, 1.5, True, None, "64 kib"])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        units.size(value)


@pytest.mark.parametrize(
    ("value", "statuses"),
    [(503, {503}), ("503", {503}), ("502-504", {502, 503, 504}), ([500, "502-503"], {500, 502, 503})],
)
def test_statuses(value: object, statuses: set[int]) -> None:
    assert units.statuses(value) == statuses
    assert units.statuses("5xx") == frozenset(range(500, 600))


@pytest.mark.parametrize("value", ["6xx", 99, 600, "504-502", True, None, {"a": 1}, [[500]], [[], 500]])
def test_what_is_no_status(value: object) -> None:
    with pytest.raises(ValueError, match="is not a status"):
        units.statuses(value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("gateway.local:65535", ("gateway.local", 65535)),
    ],
)
def test_address(text: str, parts: tuple[str, int]) -> None:
    assert units.split_address(text) == parts


@pytest.mark.parametrize("text", ["8080", ":8080", "::1:80", "a:65536", "a b:1", "http://a:1", "a:", "a:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        units.split_address(text)


@given(st.floats(min_value=0, max_value=8e10))
def test_a_duration_reads_back_as_it_was(seconds: float) -> None:
    assert units.duration(units.render_duration(seconds)) == seconds


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_a_rate_reads_back_as_it_was(per_second: float) -> None:
    assert units.rate(units.render_rate(per_second)) == per_second


@given(st.frozensets(st.integers(100, 599)))
def test_statuses_read_back_as_they_were(found: frozenset[int]) -> None:
    assert units.statuses(units.render_statuses(found)) == found


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers())))
def test_nothing_but_value_error_is_raised(value: object) -> None:
    for parse in (
        units.duration,
        units.share,
        units.amount,
        units.rate,
        units.size,
        units.byte_rate,
        units.statuses,
    ):
        try:
            parse(value)
        except ValueError as error:
            assert "write" in str(error) or "such as" in str(error)  # noqa: PT017
