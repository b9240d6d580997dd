"""Huffman decoding of HPACK strings (RFC 7541 5.2 and appendix B), one table look-up per byte.

Encoding is not needed: what the gateway sends is never compressed, see docs/adr/0008-http2.md.
"""

from __future__ import annotations

from typing import Final

CODE_LENGTHS: Final = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
)  # fmt: skip
"""Bits of the code of each symbol; 256 is the end of string. The code is canonical, so lengths define it."""
EOS: Final = 256


class HuffmanError(ValueError):
    """The string is not valid Huffman code."""


def _tree() -> tuple[list[tuple[int, int]], set[int]]:
    """The inner nodes as pairs of children, and those at which a string may end.

    A child below zero is the leaf of symbol ``-1 - child``.
    """
    nodes: list[list[int]] = [[0, 0]]
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(CODE_LENGTHS)):
        code <<= length - previous
        previous = length
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[node][bit]:
                nodes.append([0, 0])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][code & 1] = -1 - symbol
        code += 1
    ends, node = {0}, 0
    for _ in range(7):  # padding: at most seven bits, all of them ones
        node = nodes[node][1]
        ends.add(node)
    return [(zero, one) for zero, one in nodes], ends


_NODES, _ENDS = _tree()
_INVALID: Final = -1


class _Row:
    """The effect of each next byte in one state: the state after it, and the bytes it completes."""

    __slots__ = ("completes", "state")

    def __init__(self, start: int) -> None:
        self.state: list[int] = []
        self.completes: list[bytes] = []
        for byte in range(256):
            node = start
            symbols = bytearray()
            for shift in range(7, -1, -1):
                node = _NODES[node][byte >> shift & 1]
                if node < 0:
                    if node == -1 - EOS:
                        break
                    symbols.append(-1 - node)
                    node = 0
            self.state.append(_INVALID if node < 0 else node)
            self.completes.append(bytes(symbols))


_rows: list[_Row | None] = [None] * len(_NODES)
"""Made when first needed: all 256 would cost a start 50 ms, and text needs few."""


def decode(data: bytes) -> bytes:
    """Return the decoded string. Raises HuffmanError if the code or its padding is not valid."""
    state = 0
    parts: list[bytes] = []
    for byte in data:
        row = _rows[state]
        if row is None:
            row = _rows[state] = _Row(state)
        state = row.state[byte]
        if state == _INVALID:
            raise HuffmanError("the end-of-string symbol is inside a string")
        parts.append(row.completes[byte])
    if state not in _ENDS:
        raise HuffmanError("the padding is not valid")
    return b"".join(parts)
