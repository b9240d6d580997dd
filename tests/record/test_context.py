"""The features of a decision as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.context import (
    covariates_of,
    has_row,
    pack,
    pack_values,
    parted,
    segments_of,
    unpack,
    whole,
)
from policies.contextual.features import GRID, MAX_COLUMNS


@given(st.binary(min_size=8, max_size=8), st.lists(st.integers(-GRID, GRID), max_size=MAX_COLUMNS - 1))
def test_a_row_comes_back(fingerprint: bytes, steps: list[int]) -> None:
    row = [1.0, *(step / GRID for step in steps)]
    data = pack(fingerprint, row)
    assert len(data) <= 255, "the sealed id has a byte for the length"
    found = unpack(data)
    assert found.fingerprint == fingerprint.hex()
    again = [0.0] * found.width
    for k, x in found.entries:
        again[k] = x
    assert again == row


@pytest.mark.parametrize(
    "bad", [b"", bytes(8), bytes(10), b"12345678\x02\x02\x00\x01", b"12345678\x02\x00\x00\x01"]
)
def test_other_bytes_are_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"features of a decision|outside"):
        unpack(bad)


ids = st.binary(min_size=4, max_size=4)


@given(
    st.lists(st.binary(min_size=6, max_size=6), max_size=24),
    st.lists(st.tuples(ids, st.integers(-GRID, GRID)), max_size=4),
)
def test_segments_and_covariates_come_back(
    segments: list[bytes], covariates: list[tuple[bytes, int]]
) -> None:
    data = pack_values(segments, [(name, steps / GRID) for name, steps in covariates])
    assert len(data) <= 255, "the sealed id has a byte for the length"
    assert segments_of(data.hex()) == [one.hex() for one in segments]
    assert covariates_of(data.hex()) == [(name.hex(), steps) for name, steps in covariates]
    assert not has_row(data.hex())
    assert parted(data)[0] == pack_values(segments)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"C" + tail))
def test_whatever_is_parted_is_put_together(context: bytes) -> None:
    assert whole(*parted(context)) == context


@given(ids.map(lambda tail: b"CCCC" + tail), st.lists(st.integers(-GRID, GRID), max_size=MAX_COLUMNS - 1))
def test_a_row_has_no_covariates(fingerprint: bytes, steps: list[int]) -> None:
    row = pack(fingerprint, [1.0, *(step / GRID for step in steps)])
    assert has_row(row.hex())
    assert covariates_of(row.hex()) == segments_of(row.hex()) == []
