"""Header compression (RFC 7541).

The decoder keeps a `Field` for each entry of its table, so that what a client repeats is validated once. The
encoder never adds to the peer's table: its output depends on nothing but its input, and costs no state.
"""

from __future__ import annotations

from typing import Final

from gateway.http2.errors import COMPRESSION_ERROR, ConnectionFault
from gateway.http2.fields import Field
from gateway.http2.huffman import HuffmanError
from gateway.http2.huffman import decode as huffman_decode
from gateway.http2.static_table import STATIC_TABLE

TABLE_BYTES: Final = 4096
"""The size of the table that a peer may use: the default of SETTINGS_HEADER_TABLE_SIZE."""
MAX_INTEGER_BYTES: Final = 5
"""Bytes that follow the prefix of an integer, at most."""

_STATIC: Final = [Field(name, value) for name, value in STATIC_TABLE]
_STATIC_SIZE: Final = len(STATIC_TABLE)


class HeaderList:
    """A decoded header list. ``oversized``: it exceeds the decoder's limits, and ``fields`` is cut short."""

    __slots__ = ("fields", "oversized", "size")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.size = 0
        self.oversized = False


class Decoder:
    """Decodes the header blocks of one connection, in their order."""

    __slots__ = ("_block", "_entries", "_place", "_size", "_table_bytes", "max_fields", "max_list_bytes")

    def __init__(self, max_list_bytes: int, max_fields: int) -> None:
        self.max_list_bytes = max_list_bytes
        self.max_fields = max_fields
        self._entries: list[Field] = []
        """The dynamic table, oldest first."""
        self._size = 0
        self._table_bytes = TABLE_BYTES
        self._block = b""
        self._place = 0

    @property
    def table_size(self) -> int:
        """Bytes in the dynamic table, as RFC 7541 4.1 counts them."""
        return self._size

    def decode(self, block: bytes) -> HeaderList:
        """Return the header list of a whole block.

        Raises:
            ConnectionFault: the block is not valid; the state shared with the peer is lost.
        """
        self._block = block
        self._place = 0
        result = HeaderList()
        fields = result.fields
        size = len(block)
        try:
            while self._place < size:
                byte = block[self._place]
                if byte & 0x80:
                    field = self._entry(self._integer(byte, 0x7F))
                elif byte & 0x40:
                    field = self._literal(byte, 0x3F)
                    self._add(field)
                elif byte & 0x20:
                    if fields or result.oversized:
                        raise _fault("a table size update after a field")
                    self._resize(self._integer(byte, 0x1F))
                    continue
                else:
                    field = self._literal(byte, 0x0F)
                result.size += field.size
                if result.size > self.max_list_bytes or len(fields) >= self.max_fields:
                    result.oversized = True
                else:
                    fields.append(field)
        except IndexError:
            raise _fault("a header block ends within a field") from None
        except HuffmanError as error:
            raise _fault(str(error)) from None
        finally:
            self._block = b""
        return result

    def _integer(self, byte: int, mask: int) -> int:
        """The integer that begins with ``byte`` at the current place (RFC 7541 5.1)."""
        self._place += 1
        value = byte & mask
        if value < mask:
            return value
        shift = 0
        for _ in range(MAX_INTEGER_BYTES):
            byte = self._block[self._place]
            self._place += 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise _fault("an integer is too large")

    def _string(self) -> bytes:
        place = self._place
        byte = self._block[place]
        length = self._integer(byte, 0x7F)
        start = self._place
        end = start + length
        if end > len(self._block):
            raise _fault("a string is longer than its header block")
        self._place = end
        data = self._block[start:end]
        return huffman_decode(data) if byte & 0x80 else data

    def _literal(self, byte: int, mask: int) -> Field:
        index = self._integer(byte, mask)
        name = self._entry(index).name if index else self._string()
        return Field(name, self._string())

    def _entry(self, index: int) -> Field:
        if index <= _STATIC_SIZE:
            if index:
                return _STATIC[index - 1]
        elif index - _STATIC_SIZE <= len(self._entries):
            return self._entries[_STATIC_SIZE - index]
        raise _fault("an index points to no field")

    def _add(self, field: Field) -> None:
        self._entries.append(field)
        self._size += field.size
        if self._size > self._table_bytes:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES:
            raise _fault("a table size update exceeds the setting")
        self._table_bytes = size
        self._evict()

    def _evict(self) -> None:
        entries = self._entries
        count = 0
        while self._size > self._table_bytes:
            self._size -= entries[count].size
            count += 1
        del entries[:count]


def _fault(message: str) -> ConnectionFault:
    return ConnectionFault(COMPRESSION_ERROR, message)


# Encoding -------------------------------------------------------------------------------------------
def _integer(value: int, mask: int, flags: int) -> bytes:
    if value < mask:
        return bytes((flags | value,))
    out = bytearray((flags | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_LENGTHS: Final = tuple(_integer(length, 0x7F, 0) for length in range(1024))
"""The prefixes of plain strings."""
_INDEXED: Final = {field: bytes((0x80 | i + 1,)) for i, field in reversed(list(enumerate(STATIC_TABLE)))}
_NAMES: Final = {name: _integer(i + 1, 0x0F, 0) for i, (name, _) in reversed(list(enumerate(STATIC_TABLE)))}
_SENSITIVE: Final = frozenset(
    (
        *(b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"),
        *(b"x-api-key", b"api-key", b"x-goog-api-key"),
    )
)
"""Encoded as never to be indexed, so that no later hop compresses them either (RFC 7541 7.1.3)."""


def _string(value: bytes) -> bytes:
    size = len(value)
    return (_LENGTHS[size] if size < len(_LENGTHS) else _integer(size, 0x7F, 0)) + value


def encode_field(name: bytes, value: bytes) -> bytes:
    """The encoding of one field; ``name`` is in lower case."""
    indexed = _INDEXED.get((name, value))
    if indexed is not None:
        return indexed
    known = _NAMES.get(name)
    if name in _SENSITIVE:
        known = b"\x10" + _string(name) if known is None else _integer(_index(name), 0x0F, 0x10)
    elif known is None:
        known = b"\x00" + _string(name)
    return known + _string(value)


def _index(name: bytes) -> int:
    return next(i for i, (known, _) in enumerate(STATIC_TABLE, 1) if known == name)


STATUSES: Final = {status: encode_field(b":status", b"%d" % status) for status in range(100, 600)}
"""The encoded ``:status`` fields."""
