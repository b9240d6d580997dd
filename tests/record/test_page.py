"""Pages of the record."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.record.events import Outcome
from gateway.record.page import BadPage, columns_of, decode, encode

text = st.text(max_size=20)
finite = st.floats(allow_nan=False)
outcomes = st.builds(
    Outcome,
    decision=st.binary(min_size=16, max_size=16),
    time=finite,
    route=text,
    policy=st.sampled_from(["single", "split", "bandit"]),
    revision=st.integers(0, 2**40),
    epoch=st.integers(-(2**62), 2**62),
    unit=st.integers(0, 2**64 - 1),
    sticky=st.booleans(),
    assigned=st.sampled_from(["v1", "v2"]) | text,
    served=text,
    propensity=finite,
    forced=st.booleans(),
    status=st.integers(0, 999),
    error=text,
    fallback=st.booleans(),
    attempts=text,
    gateway_ms=finite,
    backend_ms=finite,
    total_ms=finite,
    request_bytes=st.integers(0, 2**63),
    answer_bytes=st.integers(0, 2**64 - 1),
    request_id=text,
    principal=text,
    features=text,
    backend_request_id=text,
)


@settings(deadline=None)
@given(st.lists(outcomes, min_size=1, max_size=40), st.booleans())
def test_every_page_reads_back(rows: list[Outcome], compress: bool) -> None:
    page = encode(rows, compress=compress)
    assert decode(page) == rows
    for row in decode(page):
        assert row.sticky.__class__ is bool
        assert row.fallback.__class__ is bool


def one(**fields: object) -> Outcome:
    base = (
        b"d" * 16, 1.0, "r", "split", 1, 1, 1, True, "a", "a", 1.0, False, 200, "", False, "", 1.0, 1.0, 1.0,
    )  # fmt: skip
    return Outcome(*base, 1, 1, "q", "", "")._replace(**fields)  # type: ignore[arg-type]


def test_hundreds_of_names_take_two_bytes_each() -> None:
    rows = [one(assigned=f"v{i % 300}", request_id="") for i in range(2000)]
    assert decode(encode(rows)) == rows


def test_half_a_character_survives() -> None:
    rows = [one(request_id="\udcff"), one(request_id="\ud800x")]
    assert decode(encode(rows)) == rows


def test_plain_tuples_will_do() -> None:
    row = tuple(one())
    assert decode(encode([row]))[0] == row  # type: ignore[list-item]


def test_a_page_is_small() -> None:
    rows = [
        one(decision=i.to_bytes(16, "big"), time=1.7e9 + i, unit=i * 2**40, request_id=f"{i:032x}")
        for i in range(1000)
    ]
    assert len(encode(rows)) / 1000 < 110
    assert len(encode(rows, compress=True)) / 1000 < 50


@pytest.mark.parametrize(
    "damage", [b"", b"XXXX", b"TPG1", b"TPG1\x01", b"TPZ1nonsense", b"TPG2" + b"\0" * 20]
)
def test_what_is_no_page_is_refused(damage: bytes) -> None:
    with pytest.raises(BadPage):
        decode(damage)


def test_a_cut_page_is_refused() -> None:
    page = encode([one(), one(assigned="b")])
    for cut in range(len(page)):
        with pytest.raises(BadPage):
            decode(page[:cut])


def test_a_page_of_a_later_release_reads_without_its_columns() -> None:
    """During an upgrade an earlier replica reads what a later one writes; after a return, too."""
    rows = [one(), one(assigned="b")]
    page = encode(rows)
    (number,) = struct.unpack_from("<H", page, 8)
    later = page[:8] + struct.pack("<H", number + 2) + page[10:] + b"=" + struct.pack("<I", 3) + b"new"
    later += b"?" + struct.pack("<I", 1) + b"x"  # of a kind that is not known either
    assert decode(later) == rows
    assert columns_of(later, {"assigned"}) == columns_of(page, {"assigned"})


def test_a_page_of_an_earlier_release_reads_with_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a release would write that did not know the last column yet.
    page = encode([one(), one()])
    shorter = page[:8] + (24).to_bytes(2, "little") + page[10:-5]
    monkeypatch.setitem(Outcome._field_defaults, "backend_request_id", "none then")
    assert [row.backend_request_id for row in decode(shorter)] == ["none then"] * 2
