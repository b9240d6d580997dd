from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from policies.allocation.bucketing import (
    CELLS,
    SEGMENTS,
    UNMOVED,
    allocation,
    placed,
    placement_of,
    point,
    unit_hash,
    unit_hashes,
)
from policies.allocation.model import Allocation

NAMES = [f"v{k}" for k in range(12)]


def lengths(made: Allocation) -> dict[str, float]:
    """By variant, from the ranges themselves."""
    out = dict.fromkeys(made.variants, 0.0)
    for low, high, owner in zip((0.0, *made.bounds), made.bounds, made.owners, strict=False):
        out[made.variants[owner]] += high - low
    return out


def moved(old: Allocation, new: Allocation) -> dict[tuple[str, str], float]:
    """Length of [0, 1) that went from one variant to another."""
    cuts = sorted({0.0, *old.bounds, *new.bounds})
    out: dict[tuple[str, str], float] = {}
    for low, high in itertools.pairwise(cuts):
        pair = old.variants[old.pick(low)], new.variants[new.pick(low)]
        if pair[0] != pair[1]:
            out[pair] = out.get(pair, 0.0) + high - low
    return out


@st.composite
def shares(draw: st.DrawFn, names: list[str] | None = None) -> dict[str, float]:
    names = names or NAMES[: draw(st.integers(1, len(NAMES)))]
    weights = [draw(st.one_of(st.just(0.0), st.floats(1e-9, 1.0))) for _ in names]
    if not sum(weights):
        weights[draw(st.integers(0, len(names) - 1))] = 1.0
    return {name: w / sum(weights) for name, w in zip(names, weights, strict=True)}


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, float]]:
    """Allocations of one route over time, variants coming and going."""
    steps = []
    for _ in range(draw(st.integers(2, 6))):
        names = draw(st.permutations(NAMES).map(lambda p: list(p[:5])))
        steps.append(draw(shares(names[: draw(st.integers(1, 5))])))
    return steps


@given(shares())
def test_ranges_have_the_lengths_asked_for(asked: dict[str, float]) -> None:
    made = allocation(asked)
    assert made.bounds[-1] == 1.0
    assert list(made.bounds) == sorted(set(made.bounds))
    for name, length in lengths(made).items():
        assert math.isclose(length, asked[name], abs_tol=1e-12)
        assert math.isclose(made.probability(name), length, rel_tol=1e-12)
        assert (length > 0) == (made.probability(name) > 0)


@pytest.mark.long
@given(histories())
def test_no_more_units_move_than_must(steps: list[dict[str, float]]) -> None:
    now = allocation(steps[0])
    for asked in steps[1:]:
        new = allocation(asked, previous=now)
        old_lengths, new_lengths = lengths(now), lengths(new)
        least = sum(max(0.0, new_lengths[v] - old_lengths.get(v, 0.0)) for v in new_lengths)
        went = moved(now, new)
        assert math.isclose(sum(went.values()), least, abs_tol=1e-12)
        growing = {v for v in new_lengths if new_lengths[v] > old_lengths.get(v, 0.0)}
        assert not {source for source, _ in went} & growing, "a variant that grows lost a unit"
        assert {target for _, target in went} <= growing
        for name, length in new_lengths.items():
            assert math.isclose(length, asked[name], abs_tol=1e-12)
        now = new


@given(histories())
def test_the_same_history_gives_the_same_ranges(steps: list[dict[str, float]]) -> None:
    def replay() -> Allocation:
        now = allocation(steps[0])
        for asked in steps[1:]:
            now = allocation(asked, previous=now)
        return now

    assert replay() == replay()


def test_nothing_moves_when_nothing_changes() -> None:
    made = allocation({"a": 0.3, "b": 0.3, "c": 0.4})
    assert allocation({"a": 0.3, "b": 0.3, "c": 0.4}, previous=made) == made


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).map(sorted))
def test_a_ramp_only_adds_units(weights: list[float]) -> None:
    own: set[int] = set()
    points = [k / 499 * (1 - 2**-53) for k in range(500)]
    for w in weights:
        made = allocation({"old": 1 - w, "new": w}, anchor=("new", "old"))
        now = {k for k, u in enumerate(points) if made.variants[made.pick(u)] == "new"}
        assert own <= now
        own = now


@given(histories())
def test_segments_stay_few(steps: list[dict[str, float]]) -> None:
    now = allocation(steps[0])
    for asked in steps * 5:
        now = allocation(asked, previous=now)
        assert len(now.bounds) <= SEGMENTS


@pytest.mark.long
def test_a_restless_bandit_keeps_few_segments_and_moves_few_units() -> None:
    rng = np.random.default_rng(3)
    logits, names = np.zeros(6), NAMES[:6]
    now, most, rebuilt = None, 0, 0
    for _ in range(3000):
        logits += rng.normal(0, 0.1, 6)
        p = np.exp(logits - logits.max())
        new = allocation(dict(zip(names, (p / p.sum()).tolist(), strict=True)), previous=now)
        if now is not None:
            least = sum(max(0.0, new.probability(name) - now.probability(name)) for name in names)
            rebuilt += sum(moved(now, new).values()) > least + 1e-9
        now, most = new, max(most, len(new.bounds))
    assert most <= SEGMENTS
    assert rebuilt <= 3, "the ranges were laid out from the beginning too often"


def test_too_many_segments_are_laid_out_anew() -> None:
    k = 400
    bounds = tuple((i + 1) / k for i in range(k))
    comb = Allocation(("a", "b", "c"), (0.34, 0.33, 0.33), bounds, tuple(i % 3 for i in range(k)))
    new = allocation({"a": 0.34, "b": 0.33, "c": 0.33}, previous=comb)
    assert len(new.bounds) == 3


@given(st.integers(0, 3), st.floats(1e-300, 2.0**-56))
def test_a_zero_is_never_drawn(at: int, tiny: float) -> None:
    for nothing in (0.0, tiny):
        asked = dict.fromkeys(["a", "b", "c"], 1 / 3)
        names = list(asked)
        names.insert(at, "none")
        made = allocation({name: asked.get(name, nothing) for name in names})
        assert made.probability("none") == 0.0
        assert names.index("none") not in made.owners
        for u in (0.0, 1 / 3, 2 / 3, 1 - 2**-53):
            assert made.variants[made.pick(u)] != "none"


def test_points_just_below_one_have_an_owner() -> None:
    made = allocation(dict.fromkeys(NAMES[:10], 0.1))
    assert made.pick(point(2**64 - 1)) == 9
    assert point(2**64 - 1) == 1 - 2**-53
    assert point(0) == 0.0


@pytest.mark.parametrize(
    "bad", [{}, {"a": 0.5}, {"a": -0.1, "b": 1.1}, {"a": math.nan}, {"a": math.inf}, {"a": 1.0, "b": 1e-6}]
)
def test_probabilities_that_are_none_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must sum to 1"):
        allocation(bad)


def test_a_variant_that_left_gives_up_everything() -> None:
    old = allocation({"a": 0.5, "gone": 0.5})
    new = allocation({"a": 0.5, "new": 0.5}, previous=old)
    assert moved(old, new) == {("gone", "new"): 0.5}


def test_probabilities_read_as_they_were_written() -> None:
    made = allocation({"a": 0.1, "b": 0.2, "c": 0.7})
    assert made.as_dict() == {"a": 0.1, "b": 0.2, "c": 0.7}


def test_ranges_lie_on_the_grid_of_points() -> None:
    now = allocation({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    for k in range(1, 200):
        now = allocation(
            {"a": 1 / (k + 1), "b": 1 / (k + 2), "c": 1 - 1 / (k + 1) - 1 / (k + 2)}, previous=now
        )
        assert all(bound * CELLS == int(bound * CELLS) for bound in now.bounds)


def test_hash_is_the_same_in_every_process() -> None:
    code = "from policies.allocation.bucketing import unit_hash; print(unit_hash(b'route', b'user-1'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == unit_hash(b"route", b"user-1")


def test_many_hashes_are_those_of_each_unit() -> None:
    units = [b"", b"user-1", b"u" * 1000, b"user-1"]
    assert unit_hashes(b"route", units) == tuple(unit_hash(b"route", unit) for unit in units)


def test_hash_is_keyed_and_even() -> None:
    assert unit_hash(b"a", b"u") != unit_hash(b"b", b"u")
    assert unit_hash(b"k" * 64, b"u") != unit_hash(b"k" * 65, b"u")
    us = np.array([point(unit_hash(b"salt", str(k).encode())) for k in range(20_000)])
    counts = np.histogram(us, bins=20, range=(0, 1))[0]
    chi2 = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi2 < 52.4  # 19 degrees of freedom, p = 6e-5; the units are fixed, so this never flickers


def test_two_salts_assign_independently() -> None:
    pairs = [(point(unit_hash(b"a", b"%d" % k)), point(unit_hash(b"b", b"%d" % k))) for k in range(20_000)]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.025


def test_a_placement_is_independent_of_the_hash_and_of_other_placements() -> None:
    hashes = [unit_hash(b"route", b"%d" % k) for k in range(20_000)]
    assert [placed(h, UNMOVED) for h in hashes[:100]] == [point(h) for h in hashes[:100]]
    one, two = placement_of(b"one"), placement_of(b"two")
    each = np.array([[point(h), placed(h, one), placed(h, two)] for h in hashes])
    assert kstest(each[:, 1], "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(each.T) - np.eye(3)).max() < 0.03


def test_placements_spread_each_share_of_the_units_over_every_other() -> None:
    hashes = [unit_hash(b"route", b"%d" % k) for k in range(20_000)]
    points = np.array([point(h) for h in hashes])
    for salt in (b"", b"a", b"b", b"digits\0v1\0v2", b"digits\0v1\0v3"):
        moved_to = np.array([placed(h, placement_of(salt)) for h in hashes])
        counts = np.histogram2d(points, moved_to, bins=10, range=((0, 1), (0, 1)))[0]
        chi2 = float(((counts - 200) ** 2 / 200).sum())
        assert chi2 < 164  # 99 degrees of freedom, p = 4e-5; the units are fixed, so this never flickers
