"""W3C Trace Context: the parent span that a request names, and the one that is passed to backends.

https://www.w3.org/TR/trace-context-2/ ; section numbers below refer to it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Level 2: the last 7 bytes of the trace id are random; passed on unchanged."""
MAX_STATE_MEMBERS: Final = 32
"""Members of a valid tracestate (3.3.1.1)."""
MAX_STATE_CHARACTERS: Final = 512
"""Characters of a tracestate that must be passed on (3.3.1.5); members beyond it are left out."""
LARGE_MEMBER_CHARACTERS: Final = 128
"""Members longer than this are left out first (3.3.1.5)."""

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_DECLINED: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
_MEMBER: Final = re.compile(
    rb"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Context(NamedTuple):
    """A span: trace id (16 bytes), span id (8 bytes), flags, and its tracestate (b"" if absent)."""

    trace_id: bytes
    span_id: bytes
    flags: int
    state: bytes = b""

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    def line(self) -> bytes:
        """Field lines that make this span the parent of the receiver's span."""
        parent = b"traceparent: 00-%b-%b-%02x\r\n" % (
            self.trace_id.hex().encode(),
            self.span_id.hex().encode(),
            self.flags,
        )
        return parent + b"tracestate: %b\r\n" % self.state if self.state else parent


def parse(parent: bytes, state: bytes = b"") -> Context | None:
    """Parse a traceparent; returns None if it is not valid (3.2, 4.3).

    ``state``: the values of all tracestate fields, joined by commas; an invalid one is discarded. Of a later
    version than 00 the known part is read, and unknown flags are cleared.
    """
    found = _TRACEPARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if rest is not None and version == b"00":
        return None
    known = int(flags, 16) & (SAMPLED | RANDOM)
    return Context(
        bytes.fromhex(trace_id.decode()),
        bytes.fromhex(span_id.decode()),
        known,
        tracestate(state) if state else b"",
    )


def declines(parent: bytes) -> bool:
    """Whether this is a valid traceparent of version 00 that is not sampled: a fast check for most requests."""
    return _DECLINED.fullmatch(parent) is not None


def tracestate(value: bytes) -> bytes:
    """The canonical form of a tracestate, cut to `MAX_STATE_CHARACTERS`; b"" if it is invalid or empty."""
    members = [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    if len(members) > MAX_STATE_MEMBERS or not all(_MEMBER.fullmatch(member) for member in members):
        return b""
    whole = b",".join(members)
    if len(whole) <= MAX_STATE_CHARACTERS:
        return whole
    members = _without_large(members, len(whole))
    while sum(map(len, members)) + len(members) - 1 > MAX_STATE_CHARACTERS:
        members.pop()
    return b",".join(members)


def _without_large(members: list[bytes], size: int) -> list[bytes]:
    """Remove large members, the last one first, until the rest fits."""
    kept = list(members)
    for place in range(len(members) - 1, -1, -1):
        if size <= MAX_STATE_CHARACTERS:
            break
        if len(members[place]) > LARGE_MEMBER_CHARACTERS:
            size -= len(members[place]) + 1
            del kept[place]
    return kept
