"""Header compression (RFC 7541).

The decoder keeps a `Field` for each entry of its table, so that what a client repeats is validated once. The
encoder never adds to the peer's table: its output depends on nothing but its input, and is remembered for what most
messages repeat.
"""

from __future__ import annotations

from typing import Final

from gateway.http2.errors import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from gateway.http2.fields import Field, RequestFields, ResponseFields
from gateway.http2.huffman import HuffmanError
from gateway.http2.huffman import decode as huffman_decode
from gateway.http2.static_table import STATIC_TABLE

TABLE_BYTES: Final = 4096
"""The size of the table that a peer may use: the default of SETTINGS_HEADER_TABLE_SIZE."""
# RFC 7541 5.1 leaves the limit to us: five hold more than any index or length here.
MAX_INTEGER_BYTES: Final = 5
"""Bytes that follow the prefix of an integer, at most."""
MAX_KNOWN_BLOCKS: Final = 8
MAX_KNOWN_BLOCK_BYTES: Final = 256
MAX_KNOWN_BLOCK_FIELDS: Final = 32
"""Header blocks of a connection that are remembered with what they mean, and what each may hold."""
MAX_TABLE_SIZES: Final = 2
"""Table size updates at the beginning of a block (RFC 7541 4.2)."""
MAX_EXPANSION: Final = 8
"""Times the limits of a header list, and the bytes of its block, from which on literals end the connection.

A literal that names a long entry of the table costs its peer three bytes and makes a field of 4 KiB. The shortest
literals cost four bytes each, and take as long to check as longer ones.
"""
MAX_CODE_BYTES: Final = 131_072
"""Huffman code in a block that is decoded, or as much as a header list may have bytes.

Beyond it, and in a list over its limit, strings that no later block can refer to are passed over.
"""

_STATIC: Final = [Field(b"", b""), *[Field(name, value) for name, value in STATIC_TABLE]]
"""By index; the first has none."""
_FIRST_DYNAMIC: Final = len(_STATIC)
_PASSED_OVER: Final = Field(b"-", b"")
"""In place of a field that was not decoded; its list is oversized."""


class HeaderList:
    """A decoded header list, which later blocks may share: nothing changes it.

    ``oversized``: it exceeds the decoder's limits; ``fields`` has no more than these.
    """

    __slots__ = ("_request", "_response", "fields", "oversized", "size")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.size = 0
        self.oversized = False
        self._request: RequestFields | None = None
        self._response: ResponseFields | None = None

    def as_request(self) -> RequestFields:
        """The list of a request, checked once."""
        if self._request is None:
            self._request = RequestFields(self.fields)
        return self._request

    def as_response(self) -> ResponseFields:
        """The list of a response, checked once."""
        if self._response is None:
            self._response = ResponseFields(self.fields)
        return self._response


class Decoder:
    """Decodes the header blocks of one connection, in their order."""

    __slots__ = (
        "_block",
        "_code",
        "_known",
        "_passed_over",
        "_place",
        "_size",
        "_table",
        "_table_bytes",
        "max_fields",
        "max_list_bytes",
    )

    def __init__(self, max_list_bytes: int, max_fields: int) -> None:
        self.max_list_bytes = max_list_bytes
        self.max_fields = max_fields
        self._table = _STATIC.copy()
        """By index: the static table, then the dynamic one, newest first."""
        self._size = 0
        self._table_bytes = TABLE_BYTES
        self._block = b""
        self._place = 0
        self._code = 0
        """Bytes of Huffman code that may still be decoded of the block."""
        self._passed_over = False
        """Whether some of it was not."""
        self._known: dict[bytes, HeaderList] = {}
        """By block, as long as the table stays as it is: most messages of a connection have few different heads."""

    def decode(self, block: bytes) -> HeaderList:
        """Return the header list of a whole block.

        Raises:
            ConnectionFault: the block is not valid, or expands too far; the state shared with the peer is lost.
        """
        result = self._known.get(block)
        if result is not None:
            return result
        self._block = block
        self._code = max(MAX_CODE_BYTES, self.max_list_bytes)
        self._passed_over = False
        result = HeaderList()
        fields, table = result.fields, self._table
        place, total, size, table_sizes = 0, 0, len(block), 0
        same_table = True
        try:
            while place < size:
                byte = block[place]
                if 0x80 < byte < 0xFF:  # nearly all fields of nearly all messages: an index of one byte
                    place += 1
                    field = table[byte & 0x7F]
                else:
                    self._place = place
                    if len(fields) > MAX_EXPANSION * self.max_fields or (
                        total > MAX_EXPANSION * self.max_list_bytes and total > MAX_EXPANSION * size
                    ):
                        raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block expands too far")
                    if byte & 0x80:
                        field = self._entry(self._integer(byte, 0x7F))
                    elif byte & 0x60 == 0x20:
                        table_sizes += 1
                        if fields or table_sizes > MAX_TABLE_SIZES:
                            raise _fault("a table size update after a field, or one too many")
                        self._resize(self._integer(byte, 0x1F))
                        same_table = False
                        place = self._place
                        continue
                    else:
                        field = self._literal(byte, total)
                        same_table = same_table and not byte & 0x40
                    place = self._place
                total += field.size
                fields.append(field)
        # Checking each place first costs every good block; only a bad one pays for this.
        except IndexError:
            raise _fault("an index points to no field, or a header block ends within a field") from None
        except HuffmanError as error:
            raise _fault(str(error)) from None
        finally:
            self._block = b""
        result.size = total
        if total > self.max_list_bytes or len(fields) > self.max_fields or self._passed_over:
            result.oversized = True
            # What the error response needs is among the first; the rest is never looked at.
            del fields[self.max_fields :]
        elif same_table and size <= MAX_KNOWN_BLOCK_BYTES and len(fields) <= MAX_KNOWN_BLOCK_FIELDS:
            if len(self._known) >= MAX_KNOWN_BLOCKS:
                self._known.clear()
            self._known[block] = result
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

    def _string(self, needed: bool) -> bytes | None:
        """The string at the current place; None if its code is passed over."""
        place = self._place
        byte = self._block[place]
        length = self._integer(byte, 0x7F)
        start = self._place
        end = start + length
        if end > len(self._block):
            raise _fault("a string is longer than its header block")
        self._place = end
        data = self._block[start:end]
        if not byte & 0x80:
            return data
        if not needed or length > self._code:
            return None
        self._code -= length
        return huffman_decode(data)

    def _literal(self, byte: int, total: int) -> Field:
        """The literal field at the current place, in a list of ``total`` bytes so far."""
        indexed = byte & 0x40 != 0
        needed = indexed or not (self._passed_over or total > self.max_list_bytes)
        index = self._integer(byte, 0x3F if indexed else 0x0F)
        name = self._entry(index).name if index else self._string(needed)
        value = self._string(needed)
        if name is None or value is None:
            if indexed:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block has too much Huffman code")
            self._passed_over = True
            return _PASSED_OVER
        field = Field(name, value)
        if indexed:
            self._add(field)
        return field

    def _entry(self, index: int) -> Field:
        if not index:
            raise _fault("an index points to no field")
        return self._table[index]

    def _add(self, field: Field) -> None:
        self._known.clear()  # their indexes mean other fields from here on
        self._table.insert(_FIRST_DYNAMIC, field)
        self._size += field.size
        if self._size > self._table_bytes:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES:
            raise _fault("a table size update exceeds the setting")
        self._known.clear()
        self._table_bytes = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._table_bytes:
            self._size -= self._table.pop().size


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
# Reversed, so that of two entries with one field the first counts.
_INDEXED: Final = {
    field: bytes((0x80 | i + 1,)) for i, field in reversed(list(enumerate(STATIC_TABLE))) if field[1]
}
_INDEXED_NAMES: Final = frozenset(name for name, _ in _INDEXED)
_SENSITIVE: Final = frozenset(
    (
        *(b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"),
        *(b"x-api-key", b"api-key", b"x-goog-api-key"),
    )
)
"""Encoded as never to be indexed, so that no later hop compresses them either (RFC 7541 7.1.3)."""
MAX_REMEMBERED: Final = 1024
MAX_REMEMBERED_BYTES: Final = 256


class Encodings(dict[bytes, bytes]):
    """Encodings that were made, up to a limit."""

    def remember(self, text: bytes, encoding: bytes) -> bytes:
        if len(text) <= MAX_REMEMBERED_BYTES:
            if len(self) >= MAX_REMEMBERED:
                self.clear()
            self[text] = encoding
        return encoding


class _Names(Encodings):
    """What precedes the string of a value, by name in any case."""

    def __missing__(self, name: bytes) -> bytes:
        lowered = name.lower()
        flags = 0x10 if lowered in _SENSITIVE else 0
        index = next((i for i, (known, _) in enumerate(STATIC_TABLE, 1) if known == lowered), 0)
        return self.remember(name, _integer(index, 0x0F, flags) + (b"" if index else _string(lowered)))


class _Lines(Encodings):
    """The encoding of whole field lines of HTTP/1.1, of which most messages repeat those of others."""

    def __missing__(self, lines: bytes) -> bytes:
        fields = split_lines(lines)
        encoding = encode_fields(fields)
        if any(name in _SENSITIVE for name, _ in fields):  # the cache outlives the connection
            return encoding
        return self.remember(lines, encoding)


_NAMES: Final = _Names()
REPEATED_LINES: Final = _Lines()
"""Encodes lines that other messages are likely to have too; `encode_lines` encodes those of one message."""


def _string(value: bytes) -> bytes:
    size = len(value)
    return (_LENGTHS[size] if size < len(_LENGTHS) else _integer(size, 0x7F, 0)) + value


def encode_field(name: bytes, value: bytes) -> bytes:
    """The encoding of one field, with its name in lower case."""
    if name in _INDEXED_NAMES:
        indexed = _INDEXED.get((name, value))
        if indexed is not None:
            return indexed
    size = len(value)
    return _NAMES[name] + (_LENGTHS[size] if size < 1024 else _integer(size, 0x7F, 0)) + value


def encode_fields(fields: list[tuple[bytes, bytes]]) -> bytes:
    """The encoding of (name, value) pairs."""
    return b"".join([encode_field(name, value) for name, value in fields])


def split_lines(lines: bytes) -> list[tuple[bytes, bytes]]:
    """(Lower-cased name, value) of whole field lines of HTTP/1.1."""
    fields = []
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            fields.append((name.lower(), value))
    return fields


def encode_lines(lines: bytes) -> bytes:
    """The encoding of whole field lines of HTTP/1.1."""
    parts: list[bytes] = []
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            size = len(value)
            parts += (_NAMES[name], _LENGTHS[size] if size < 1024 else _integer(size, 0x7F, 0), value)
    return b"".join(parts)


STATUSES: Final = {status: encode_field(b":status", b"%d" % status) for status in range(100, 600)}
"""The encoded ``:status`` fields."""
