"""W3C Trace Context: where a request comes from in a trace, and what is told to those behind us.

https://www.w3.org/TR/trace-context-2/ ; the rules named below are of that text.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Level 2: the trace id's last 7 bytes are random; kept as it came."""
MEMBERS: Final = 32
"""Most members of a tracestate (3.3.1.1)."""
LENGTH: Final = 512
"""Characters of a tracestate that must be passed on (3.3.1.5); beyond it members are left out."""
LARGE: Final = 128
"""Members longer than this are the first to be left out (3.3.1.5)."""

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_DECLINED: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
_MEMBER: Final = re.compile(
    rb"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Context(NamedTuple):
    """A span of somebody's: 16 and 8 bytes, flags, and the tracestate that came with it ("" for none)."""

    trace_id: bytes
    span_id: bytes
    flags: int
    state: bytes = b""

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    def line(self) -> bytes:
        """The field line (or two) that makes this span the parent of what the receiver does."""
        parent = b"traceparent: 00-%b-%b-%02x\r\n" % (
            self.trace_id.hex().encode(),
            self.span_id.hex().encode(),
            self.flags,
        )
        return parent + b"tracestate: %b\r\n" % self.state if self.state else parent


def parse(parent: bytes, state: bytes = b"") -> Context | None:
    """The span that a request names; None where ``parent`` is no valid traceparent (3.2, 4.3).

    ``state``: the values of all tracestate fields, joined by commas. A later version than 00 is read as far as it
    is known, and flags that are not known are cleared. An invalid tracestate is discarded alone.
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
    """Whether this is a valid traceparent of version 00 that is not sampled: the quick answer for most requests."""
    return _DECLINED.fullmatch(parent) is not None


def tracestate(value: bytes) -> bytes:
    """A tracestate in its canonical form, cut to what must be passed on; b"" where it is invalid or empty."""
    members = [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    if len(members) > MEMBERS or not all(_MEMBER.fullmatch(member) for member in members):
        return b""
    whole = b",".join(members)
    if len(whole) <= LENGTH:
        return whole
    members = _without_large(members, len(whole))
    while sum(map(len, members)) + len(members) - 1 > LENGTH:
        members.pop()
    return b",".join(members)


def _without_large(members: list[bytes], size: int) -> list[bytes]:
    """Leaves out large members, the last first, until the rest fits."""
    kept = list(members)
    for place in range(len(members) - 1, -1, -1):
        if size <= LENGTH:
            break
        if len(members[place]) > LARGE:
            size -= len(members[place]) + 1
            del kept[place]
    return kept
