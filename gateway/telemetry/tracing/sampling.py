"""Which requests are traced: chosen once, when the head of a request is complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.clock import Chance, Clock
from gateway.telemetry.tracing.context import SAMPLED, Context, declines, parse
from gateway.telemetry.tracing.trace import Trace, Traced

PARENT: Final = b"traceparent"
STATE: Final = b"tracestate"
_LINES: Final = (PARENT + b":", STATE + b":")


class Sample(NamedTuple):
    """What becomes of one request."""

    trace: Trace | None
    """None: it is not traced."""
    strip: bool
    """Whether the client's trace context goes no further."""


PASSED: Final = Sample(None, strip=False)
"""Not traced, and what names a trace passes as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """How requests are chosen; part of the snapshot, where None means that nothing is traced."""

    share: float
    """Probability of a trace where the client does not say."""
    follow: bool
    """Whether an admitted client may say."""
    propagate: bool
    """Whether backends get the context of our spans."""
    chance: Chance
    """Draws from [0, 1)."""
    entropy: Callable[[int], bytes]
    """Returns the number of random bytes it is asked for."""
    wall: Clock
    """Seconds since the epoch."""
    offer: Callable[[Traced], None]
    """Takes what is finished."""

    def sample(self, fields: Mapping[bytes, bytes], *, admitted: bool) -> Sample:
        """Decides on one request; call it once for each.

        ``fields``: values by lower-cased name. ``admitted``: only then may the client decide, because a stranger's
        wish would cost without bound.
        """
        parent = fields.get(PARENT)
        if parent is not None:
            return self._named(parent, fields.get(STATE, b""), follow=self.follow and admitted)
        strip = STATE in fields and self.propagate  # it means nothing alone (W3C Trace Context 3.3)
        if self.chance() < self.share:
            return Sample(Trace(self.root(), b"", None), strip)
        return Sample(None, strip) if strip else PASSED

    def _named(self, parent: bytes, state: bytes, *, follow: bool) -> Sample:
        """The client has sent a traceparent."""
        if self.follow and declines(parent):
            return PASSED
        context = parse(parent, state)
        if context is not None and follow:
            if not context.sampled:
                return PASSED
            span = Context(context.trace_id, self.entropy(8), context.flags, context.state)
            return Sample(Trace(span, context.span_id, None), strip=False)
        trace = Trace(self.root(), b"", context) if self.chance() < self.share else None
        return Sample(trace, self.propagate)

    def root(self) -> Context:
        """A span with which a trace begins."""
        ids = self.entropy(24)
        return Context(ids[:16], ids[16:], SAMPLED)

    def child(self, of: Context) -> Context:
        """A span below ``of``."""
        return Context(of.trace_id, self.entropy(8), of.flags, of.state)


def without_context(lines: list[bytes]) -> list[bytes]:
    """The field lines without those that name a trace."""
    return [line for line in lines if not line.lower().startswith(_LINES)]
