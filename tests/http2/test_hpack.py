"""Our decoder and encoder against the `hpack` package, in both directions."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hpack import Decoder as ReferenceDecoder
from hpack import Encoder as ReferenceEncoder
from hpack import HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from gateway.http2 import huffman
from gateway.http2.errors import ConnectionFault
from gateway.http2.hpack import (
    MAX_KNOWN_BLOCK_BYTES,
    MAX_KNOWN_BLOCK_FIELDS,
    MAX_KNOWN_BLOCKS,
    Decoder,
    encode_field,
)
from tests.http2.raw import integer

NAMES = st.sampled_from(
    [b":path", b":status", b"content-type", b"x-user-id", b"cookie", b"authorization", b"date"]
)
LISTS = st.lists(st.tuples(NAMES | st.binary(max_size=40), st.binary(max_size=300)), max_size=20)


@given(st.lists(LISTS, max_size=8))
def test_decodes_what_another_encoder_sends_on_one_connection(lists: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = ReferenceEncoder(), Decoder(1 << 20, 1000)
    for pairs in lists:
        decoded = decoder.decode(encoder.encode(pairs))
        assert [(field.name, field.value) for field in decoded.fields] == pairs


@given(st.lists(st.tuples(LISTS, st.integers(0, 2)), min_size=2, max_size=6), st.data())
def test_a_block_means_what_the_table_says_when_it_comes(
    lists: list[tuple[list[tuple[bytes, bytes]], int]], draw: st.DataObject
) -> None:
    """Blocks are remembered: each comes again between others that change the table, or its size."""
    encoder, decoder, reference = ReferenceEncoder(), Decoder(1 << 20, 1000), ReferenceDecoder(1 << 20)
    blocks = []
    for pairs, change in lists:
        if change:
            encoder.header_table_size = draw.draw(st.sampled_from([0, 100, 4096]))
        blocks.append(encoder.encode(pairs))
    for block in draw.draw(st.lists(st.sampled_from(blocks), max_size=20)):
        try:
            expected = [tuple(pair) for pair in reference.decode(block, raw=True)]
        except (HPACKError, IndexError):
            return  # the order is not one that an encoder would choose
        assert [(field.name, field.value) for field in decoder.decode(block).fields] == expected


def test_few_small_blocks_are_remembered() -> None:
    decoder = Decoder(65_536, 128)
    for number in range(100):
        decoder.decode(b"\x00\x01a" + encoded_string(b"%d" % number))
        assert len(decoder._known) <= MAX_KNOWN_BLOCKS
    known = len(decoder._known)
    decoder.decode(b"\x00\x01a" + encoded_string(b"v" * MAX_KNOWN_BLOCK_BYTES))
    decoder.decode(b"\x82" * (MAX_KNOWN_BLOCK_FIELDS + 1))
    assert len(decoder._known) == known
    decoder.decode(b"\x40\x01a\x01b")
    assert not decoder._known


def encoded_string(value: bytes) -> bytes:
    return integer(len(value), 7) + value


@given(LISTS)
def test_encodes_what_another_decoder_reads(pairs: list[tuple[bytes, bytes]]) -> None:
    encoded = b"".join(encode_field(name, value) for name, value in pairs)
    expected = [(name.lower(), value) for name, value in pairs]
    assert [tuple(pair) for pair in ReferenceDecoder().decode(encoded, raw=True)] == expected


@given(st.binary(max_size=200))
def test_huffman_decodes_what_another_encoder_sends(text: bytes) -> None:
    assert huffman.decode(HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)) == text


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(block: bytes) -> None:
    decoder = Decoder(65_536, 128)
    with suppress(ConnectionFault):
        assert decoder.decode(block).size <= len(block) * 4200
    assert decoder._size <= 4096


def test_credentials_are_never_indexed() -> None:
    for name in (b"authorization", b"cookie", b"set-cookie", b"x-api-key", b"api-key", b"x-goog-api-key"):
        assert encode_field(name, b"secret")[0] & 0xF0 == 0x10


def test_the_table_holds_no_more_than_its_size() -> None:
    encoder, decoder = ReferenceEncoder(), Decoder(1 << 20, 1000)
    for number in range(500):
        pair = (b"x-%d" % number, b"v" * 50)
        assert decoder.decode(encoder.encode([pair])).fields[0].name == pair[0]
    assert decoder._size <= 4096


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 1023, 1024, 20_000])
def test_strings_of_every_length_prefix(size: int) -> None:
    decoded = ReferenceDecoder(1 << 20).decode(encode_field(b"x", b"v" * size), raw=True)
    assert [tuple(pair) for pair in decoded] == [(b"x", b"v" * size)]


def test_a_list_over_a_small_limit_is_oversized_however_long() -> None:
    block = ReferenceEncoder().encode([(f"x-{k}", "v" * 1000) for k in range(16)])
    assert Decoder(1024, 128).decode(block).oversized


def coded(name: bytes, symbol: bytes, eights: int, flags: int = 0) -> bytes:
    """A literal whose value is Huffman code of a symbol, eight times ``eights``."""
    return literal_code(
        name, eights * HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(8 * symbol), flags
    )


def literal_code(name: bytes, code: bytes, flags: int = 0) -> bytes:
    return bytes((flags, len(name))) + name + integer(len(code), 7, 0x80) + code


def test_code_that_no_later_block_needs_is_passed_over() -> None:
    """A block of 272 KiB took 50 ms to decode, for a list that is refused."""
    decoder = Decoder(65_536, 128)
    first, last = coded(b"x-first", b"a", 1, 0x40), coded(b"x-last", b"b", 1, 0x40)
    invalid = literal_code(b"x", 200_000 * b"\xff") + literal_code(
        b"y", 100 * b"\xff"
    )  # shows that none is decoded
    headers = decoder.decode(first + invalid + last)
    assert headers.oversized
    assert [field.name for field in headers.fields] == [b"x-first", b"-", b"-", b"x-last"]
    pair = decoder.decode(b"\xbe\xbf").fields  # the table is still the peer's
    assert [(field.name, field.value) for field in pair] == [(b"x-last", 8 * b"b"), (b"x-first", 8 * b"a")]

    # What the table may need is decoded, up to a limit.
    needed = coded(b"x", b"v", 2_500, 0x40)
    assert decoder.decode(7 * needed).oversized
    with pytest.raises(ConnectionFault, match="too much Huffman code"):
        decoder.decode(7 * needed + literal_code(b"x", 20_000 * b"\xff", 0x40))


def test_a_list_within_the_limit_may_have_more_code_than_text() -> None:
    (field,) = Decoder(65_536, 128).decode(coded(b"x", b"\xf9", 3_750)).fields
    assert field.value == 30_000 * b"\xf9"
