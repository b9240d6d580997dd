"""What a batch adds to the aggregates, against a plain loop over its rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.events import Outcome, columns
from gateway.record.histogram import index
from gateway.state.folding import MAX_APART, merged_epochs, share_steps
from gateway.state.paging import (
    MARK_BYTES,
    MAX_PAGE_ROWS,
    MAX_PAGE_SPAN_MS,
    SLICE_BYTES,
    marks,
    milliseconds,
    parts,
)
from gateway.state.tally import SumKey, start_of, tally
from tests.support.made import T0, decision, drawn_decision, outcome

rows = st.builds(
    outcome,
    st.floats(T0, T0 + 60),
    route=st.sampled_from(["a", "b"]),
    epoch=st.integers(1, 3),
    assigned=st.sampled_from(["v1", "v2"]),
    served=st.sampled_from(["v1", "v2", ""]),
    error=st.sampled_from(["", "client_left", "backend_reset"]),
    status=st.sampled_from([0, 200, 404, 422, 499, 503]),
    fallback=st.booleans(),
    forced=st.booleans(),
    total_ms=st.floats(0.002, 1e5),
    gateway_ms=st.floats(0, 10),
)


@given(st.lists(rows, min_size=1, max_size=60))
def test_a_tally_counts_what_a_loop_counts(batch: list[Outcome]) -> None:
    shares = {"v1": 0.25, "v2": 0.5, "v3": 0.25}
    added = tally(columns(batch), lambda route, epoch: shares)
    found = added.counts
    counted = [o for o in batch if not o.forced]

    def sums(key: str, field: str) -> Counter[tuple[str, int, int, str]]:
        return Counter(
            (o.route, start_of(o.time), o.epoch, getattr(o, key)) for o in counted if _holds(o, field)
        )

    def by(field: str) -> dict[tuple[str, int, int, str], int]:
        return {tuple(k): getattr(c, field) for k, c in found.items() if getattr(c, field)}  # type: ignore[misc]

    assert by("assigned") == sums("assigned", "")
    assert by("errors") == sums("assigned", "failed")
    assert by("fallbacks") == sums("assigned", "fallback")
    assert by("served") == sums("served", "served")
    refused = {SumKey(*key, "client_error_rate"): n for key, n in sums("assigned", "client_error").items()}
    seen = sums("assigned", "status")  # 0: the gateway sees no response
    assert {key: one.rounded.total for key, one in added.sums.items() if one.rounded.total} == refused
    assert {key[:4]: one.count for key, one in added.sums.items()} == seen
    assert all(one.rounded.total == one.rounded.squares for one in added.sums.values())
    for key, cell in found.items():
        mine = [o for o in counted if (o.route, start_of(o.time), o.epoch, o.served) == tuple(key)]
        assert cell.latency == Counter(index(o.total_ms) for o in mine)
        assert cell.gateway == Counter(index(o.gateway_ms) for o in mine)
        size = sum((o.route, start_of(o.time), o.epoch) == key[:3] for o in counted)
        assert cell.expected == size * shares[key.variant]


def _holds(one: Outcome, field: str) -> bool:
    return field == "" or bool(getattr(one, field))


@given(st.lists(st.integers(0, 4 * MAX_PAGE_SPAN_MS), min_size=1, max_size=80))
def test_parts_are_ordered_and_bounded(offsets: list[int]) -> None:
    batch = [outcome(T0, decision=decision(T0 + ms / 1000)) for ms in offsets]
    cut = list(parts(batch))
    assert [o for part in cut for o in part] == sorted(batch)
    for part in cut:
        assert 0 < len(part) <= MAX_PAGE_ROWS
        assert milliseconds(part[-1].decision) - milliseconds(part[0].decision) <= MAX_PAGE_SPAN_MS


def test_a_block_has_a_bit_for_each_decision() -> None:
    blocks, scattered = marks(decision(T0, number) for number in range(1, 1001))
    assert not scattered
    assert sum(bits.bit_count() for bits in blocks.values()) == 1000
    assert {len(block) for block in blocks} == {13}
    assert max(blocks.values()) < 1 << 256


def test_decisions_of_other_proxies_have_a_mark_each_in_their_slice_of_time() -> None:
    given = [drawn_decision(T0 + number / 10) for number in (*range(0, 100, 2), *range(1, 100, 2))]
    blocks, scattered = marks([*given, decision(T0)])
    assert len(blocks) == 1
    assert scattered.keys() == {one[:SLICE_BYTES] for one in given}
    for time, found in scattered.items():
        each = [found[start : start + MARK_BYTES] for start in range(0, len(found), MARK_BYTES)]
        alike = [one for one in given if one[:SLICE_BYTES] == time]
        assert each == [one[6:12] + one[13:14] + one[15:16] for one in alike]


def test_which_epochs_are_merged() -> None:
    # 3 began before the bucket, 7 goes on behind it; 4, 5 and 6 lie inside.
    assert merged_epochs([3, 4, 5, 6, 7], before=3, after=7) == {3: 3, 4: 6, 5: 6, 6: 6, 7: 7}
    assert merged_epochs([3, 4], before=2, after=5) == {3: 4, 4: 4}
    assert merged_epochs([3], before=3, after=3) == {3: 3}
    assert merged_epochs([3, 4], before=None, after=None) == {3: 3, 4: 4}
    assert merged_epochs([], before=None, after=None) == {}


def test_epochs_whose_shares_are_far_apart_are_not_merged() -> None:
    shares = {4: 0.5, 5: 0.05, 6: 0.45, 7: 0.06, 8: 0.9999, 9: 1.0}
    cells = [
        (epoch, v, n, 100 * p) for epoch, p in shares.items() for v, n, p in (("a", 60, 1 - p), ("b", 40, p))
    ]
    steps = share_steps(cells)
    found = merged_epochs([3, *shares], before=3, after=10, steps=steps)
    assert found == {3: 3, 4: 6, 6: 6, 5: 7, 7: 7, 8: 8, 9: 9}, "in 9 the other variant could not be drawn"


def test_at_most_so_many_shares_are_kept_apart() -> None:
    """Ten variants whose shares wander have others in each epoch."""
    rng = np.random.default_rng(2)
    shares = rng.dirichlet(np.full(10, 5.0), size=300)
    cells = [(epoch, str(v), 10.0, 100 * p) for epoch, row in enumerate(shares) for v, p in enumerate(row)]
    assert len(set(share_steps(cells).values())) <= MAX_APART
    two = [
        (epoch, v, 50.0, 100 * p)
        for epoch, p in enumerate(np.linspace(0.05, 0.95, 300))
        for v, p in (("a", p), ("b", 1 - p))
    ]
    assert len(set(share_steps(two).values())) == 13, "those of two variants are not too many"
