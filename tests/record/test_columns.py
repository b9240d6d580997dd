"""Rows seen by the column."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.events import grouped

cells = st.sampled_from(["v1", "v2", "", "v3"]) | st.integers(0, 3)


@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=60))
def test_grouped_says_for_each_row_which_of_the_distinct_rows_it_is(rows: list[tuple[Any, ...]]) -> None:
    found, codes = grouped(*zip(*rows, strict=True))
    assert found == list(dict.fromkeys(rows))
    assert [found[code] for code in codes] == rows


def test_more_kinds_than_a_byte_can_tell_apart() -> None:
    values = [str(i % 300) for i in range(1000)]
    found, codes = grouped(["digits"] * 1000, values)
    assert found == [("digits", str(i)) for i in range(300)]
    assert np.array_equal(codes, np.arange(1000) % 300)
