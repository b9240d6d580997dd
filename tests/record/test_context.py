"""The features of a decision as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.context import pack, unpack
from policies.contextual.features import GRID, MOST_COLUMNS


@given(st.binary(min_size=8, max_size=8), st.lists(st.integers(-GRID, GRID), max_size=MOST_COLUMNS - 1))
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
