"""Sealed decision ids."""

from __future__ import annotations

import multiprocessing
import os
import re
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.context import whole
from gateway.record.decision_id import BadDecisionId, Opened, Sealer

KEY = bytes(range(32))
SEALER = Sealer([KEY])
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=60)


def sealed(sealer: Sealer = SEALER, unit: int = 7) -> bytes:
    static = Sealer.static("digits", "v1", "v2", 17, 0.97, False)
    return sealer.seal(sealer.new_decision(1_700_000_000.123), unit, static)


def code_of(text: str | bytes, sealer: Sealer = SEALER) -> str:
    with pytest.raises(BadDecisionId) as caught:
        sealer.open(text)
    return caught.value.code


@given(
    route=names,
    assigned=names,
    served=names,
    epoch=st.integers(0, 2**64 - 1),
    propensity=st.floats(0, 1),
    forced=st.booleans(),
    unit=st.integers(0, 2**64 - 1),
    milliseconds=st.integers(0, 2**47),
    context=st.one_of(st.just(b""), st.binary(max_size=255)),
)
def test_what_was_sealed_opens(
    route: str,
    assigned: str,
    served: str,
    epoch: int,
    propensity: float,
    forced: bool,
    unit: int,
    milliseconds: int,
    context: bytes,
) -> None:
    decision = milliseconds.to_bytes(6, "big") + os.urandom(10)
    static = Sealer.static(route, assigned, served, epoch, propensity, forced, context)
    text = SEALER.seal(decision, unit, static)
    assert re.fullmatch(rb"[A-Za-z0-9_-]+", text)
    assert SEALER.open(text) == Opened(
        decision, milliseconds / 1000, unit, route, assigned, served, epoch, propensity, forced, context
    )
    assert SEALER.open(text.decode()) == SEALER.open(text)


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


TEXT = sealed().decode()
"""One for all examples: Hypothesis repeats its draws, and what they depend on must stay."""


@given(st.data())
def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    text = TEXT
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(ALPHABET).filter(lambda c: c != text[place]))
    assert code_of(text[:place] + other + text[place + 1 :]) in ("forged", "unknown_key")


@given(st.data())
def test_anything_added_or_left_out_is_refused(data: st.DataObject) -> None:
    text = TEXT
    cut = data.draw(st.integers(0, len(text) - 1))
    assert code_of(text[:cut]) in ("malformed", "forged", "unknown_key")
    extra = data.draw(st.text(ALPHABET + "=+/ \n", min_size=1, max_size=8))
    assert code_of(text[:cut] + extra + text[cut:]) in ("malformed", "forged", "unknown_key")
    assert code_of(text + extra) in ("malformed", "forged")


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300)))
def test_noise_is_refused(noise: str | bytes) -> None:
    assert code_of(noise) in ("malformed", "forged", "unknown_key")


def test_one_id_has_one_text() -> None:
    text = sealed().decode()
    for variant in (text + "=", text.replace("_", "/"), text.replace("-", "+"), text + "\n", f" {text}"):
        assert variant == text or code_of(variant) == "malformed"


def test_a_key_rotates() -> None:
    old, new = Sealer([KEY]), Sealer([b"n" * 32, KEY])
    assert new.open(sealed(old)).route == "digits"
    assert code_of(sealed(new), old) == "unknown_key"
    old.renew([KEY, b"n" * 32])
    assert old.open(sealed(new)).route == "digits"


def test_keys_made_apart_never_share_a_number() -> None:
    """Two replicas that each made a key, as when a shared store came back empty, call no id of the other forged."""
    sealers = [Sealer([os.urandom(32)]) for _ in range(200)]
    for one, other in pairwise(sealers):
        assert code_of(sealed(one), other) == "unknown_key"


def test_a_later_form_of_ids_is_not_guessed_at() -> None:
    static = bytearray(Sealer.static("digits", "v1", "v2", 17, 0.97, False))
    static[0] = 0x30
    assert code_of(SEALER.seal(os.urandom(16), 1, bytes(static))) == "unknown_key"


@pytest.mark.parametrize("keys", [[], [b"short"], [KEY, b"x" * 65]])
def test_unfit_keys_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="key"):
        Sealer(keys)


def test_unfit_names_are_refused() -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        Sealer.static("ä" * 128, "v1", "v1", 1, 1.0, False)
    with pytest.raises(ValueError, match="epoch"):
        Sealer.static("r", "v1", "v1", -1, 1.0, False)
    with pytest.raises(ValueError, match="255 bytes"):
        Sealer.static("r", "v1", "v1", 1, 1.0, False, bytes(256))


def test_ids_without_features_are_as_they_were() -> None:
    """So that a release that knows no features opens them."""
    assert Sealer.static("r", "v1", "v2", 1, 0.5, True)[0] == 0x11
    assert Sealer.static("r", "v1", "v2", 1, 0.5, True, b"") == Sealer.static("r", "v1", "v2", 1, 0.5, True)
    assert Sealer.static("r", "v1", "v2", 1, 0.5, True, b"x")[0] == 0x21


def test_a_release_that_knows_no_covariates_opens_ids_with_them() -> None:
    """It reads what stands before them, and of the first byte the format and whether a client named the variant."""
    for others in (b"", b"S" + bytes(6)):
        context = whole(others, bytes(6))
        plain, more = (Sealer.static("r", "v1", "v2", 1, 0.5, True, one) for one in (others, context))
        assert (plain[0], more[0]) == ((0x21, 0x23) if others else (0x11, 0x13))
        assert more[1:].startswith(plain[1:].rstrip(b"\0"))
        assert SEALER.open(SEALER.seal(os.urandom(16), 1, more)).context == context


def test_decisions_are_unique_and_in_order() -> None:
    made = [SEALER.new_decision(1_700_000_000 + i // 100) for i in range(5000)]
    assert len(set(made)) == 5000
    assert made == sorted(made)
    assert {len(one) for one in made} == {16}
    assert int.from_bytes(made[0][:6], "big") == 1_700_000_000_000


def _child(queue: multiprocessing.Queue[list[bytes]]) -> None:
    queue.put([SEALER.new_decision(1_700_000_000.0) for _ in range(100)])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_never_make_the_same_decision(method: Literal["fork", "spawn"]) -> None:
    context: Any = multiprocessing.get_context(method)
    queue: multiprocessing.Queue[list[bytes]] = context.Queue()
    children = [context.Process(target=_child, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    made = [one for _ in children for one in queue.get(timeout=30)]
    for child in children:
        child.join()
    made += [SEALER.new_decision(1_700_000_000.0) for _ in range(100)]
    assert len(set(made)) == 300


def test_an_id_says_whether_the_unit_came_from_the_request() -> None:
    """Without one, the decision's own bits stand in for it: so every process and every release can tell."""
    decision = SEALER.new_decision(1.0)
    static = Sealer.static("r", "v1", "v1", 1, 0.5, False)
    own = int.from_bytes(decision[8:], "big")
    assert not SEALER.open(SEALER.seal(decision, own, static)).sticky
    assert SEALER.open(SEALER.seal(decision, own ^ 1, static)).sticky
