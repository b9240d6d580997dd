"""Decision ids that other proxies make from stamps: what they say, and what cannot be forged."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.record.decision_id import BadDecisionId, Sealer
from gateway.record.stamp import Stamp, parsed_request, parsed_requests

KEY, OTHER = b"k" * 32, b"o" * 32
FACTS = Stamp("digits", "v2", 7, 0.1, 1_800_000_000.0)
UUID: Final = "09ca461a-abb1-4cc3-9ff2-14687957e375"
LATER: Final = 1_800_000_100_123


def decision_id(*, stamp: str | None = None, at: int = LATER, uuid: str = UUID, served: str = ".v2") -> str:
    return f"{stamp or Sealer([KEY]).stamp(FACTS)}.{at}.{uuid}{served}"


def test_an_id_says_what_was_stamped_and_what_the_proxy_added() -> None:
    opened = Sealer([OTHER, KEY]).open(decision_id(served=".v1"))
    assert opened.route == "digits"
    assert (opened.assigned, opened.served) == ("v2", "v1")
    assert (opened.epoch, opened.propensity, opened.decided) == (7, 0.1, LATER / 1000)
    assert opened.decision == LATER.to_bytes(6, "big") + bytes.fromhex(UUID.replace("-", ""))[:10]
    assert opened.stamped
    assert not opened.sticky
    assert not opened.forced


@pytest.mark.parametrize("served", ["", ".-"])
def test_a_request_that_no_variant_served(served: str) -> None:
    assert Sealer([KEY]).open(decision_id(served=served)).served == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (decision_id(stamp=Sealer([OTHER]).stamp(FACTS)), "unknown_key"),
        (decision_id(at=1_799_999_900_000), "malformed"),
        (decision_id(at=1 << 50), "malformed"),
        (decision_id(uuid=UUID.upper()), "malformed"),
        (decision_id(served=".v2.\n"), "malformed"),
        (f"{Sealer([KEY]).stamp(FACTS)}.", "malformed"),
        (Sealer([KEY]).stamp(FACTS), "malformed"),
        ("..", "malformed"),
    ],
    ids=["another gateway's", "before its epoch", "no time", "no UUID", "no name", "cut", "bare", "dots"],
)
def test_what_is_refused(text: str, code: str) -> None:
    with pytest.raises(BadDecisionId) as refused:
        Sealer([KEY]).open(text)
    assert refused.value.code == code


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_byte_of_a_stamp_can_be_changed(place: int, change: int) -> None:
    text = bytearray(decision_id().encode())
    end = text.index(b".")
    text[place % end] ^= change
    with pytest.raises(BadDecisionId):
        Sealer([KEY]).open(text.decode("latin-1"))


_PIECES: Final = st.sampled_from(
    [
        str(LATER), "9" * 13, "123", f".{UUID}", f".{UUID.upper()}", ".", "-", "v2", "~" + "0f" * 16, "\xb2",
        "\n", "\x00",
    ]
)  # fmt: skip


@given(
    st.lists(st.one_of(st.just(f"{LATER}.{UUID}"), st.lists(_PIECES, max_size=5).map("".join)), min_size=1)
)
def test_many_requests_are_read_as_each_alone(texts: list[str]) -> None:
    good, decisions, decided, served = parsed_requests(texts)
    for place, text in enumerate(texts):
        alone = parsed_request(text, 0.0)
        if alone is not None and len(text.partition(".")[0]) < 13:
            alone = None  # a time before 2001
        assert bool(good[place]) is (alone is not None), text
        if alone is not None:
            assert (decisions[place], decided[place], served[place]) == alone[:3]


def test_a_sealed_id_is_no_stamp_and_a_stamp_no_sealed_id() -> None:
    sealer = Sealer([KEY])
    sealed = sealer.seal(sealer.new_decision(1e9), 5, sealer.static("r", "a", "a", 1, 0.5, False)).decode()
    with pytest.raises(BadDecisionId, match="altered"):
        sealer.open(decision_id(stamp=sealed))
    with pytest.raises(
        BadDecisionId, match="altered"
    ):  # as long as a sealed id, and signed for another purpose
        sealer.open(sealer.stamp(FACTS._replace(route="r" * 60)))
