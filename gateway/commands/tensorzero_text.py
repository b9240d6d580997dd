"""What `turnout import tensorzero` writes: routes, and what is left to do, as commented YAML."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.commands.tensorzero_providers import Limits, Target
from gateway.telemetry.printable import printable

LONGEST: Final = 900_000.0
"""TensorZero's own limit for a request to a provider, in milliseconds."""
_STATUSES: Final = [408, 429, "500-599"]
"""What TensorZero retries and falls back on, without errors that are the client's."""
_PLAIN: Final = re.compile(
    r"(?!(?:true|false|null)$)[A-Za-z_][A-Za-z0-9._-]*|(?:/[A-Za-z0-9._-]+)+|\d+(?:\.\d+)?(?:ms|s|m|d)",
    re.IGNORECASE,
)
"""Texts that are the same without quotes, wherever they stand."""
_UNPRINTED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON leaves as it is, and YAML refuses or takes for the end of a line."""


@dataclass
class Route:
    """A route to be, with one variant or more, or the reason in ``comments`` why it has none."""

    name: str
    match: dict[str, object]
    comments: list[str]
    sticky: bool = False
    variants: list[tuple[str, Target, list[str]]] = field(default_factory=list)
    """Name, what serves it, comments."""
    policy: dict[str, object] = field(default_factory=dict)
    fallback: list[str] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    """Of each provider."""
    retries: int = 0
    delay: float = 0.0
    """Longest delay before a retry, in seconds."""

    def lines(self, longest: float) -> Iterator[str]:
        """The route as YAML; ``longest`` (milliseconds) limits what nothing else does."""
        yield from comments(self.comments, "  ")
        if not self.variants:
            yield f"  # so there is no route {printable(self.name)}"
            return
        yield f"  {text(self.name)}:"
        yield f"    match: {flow(self.match)}"
        if self.sticky:
            yield "    unit: {header: x-episode-id}    # the client's id of an episode keeps it on one variant"
        yield "    variants:"
        path = "/" + str(self.match["path"]).rpartition("openai/v1/")[2]
        for name, target, notes in self.variants:
            yield from comments(notes, "      ")
            entry: dict[str, object] = {
                "backend": target.backend,
                "rewrite": {"path": path, "model": literal(target.model)},
            }
            if target.headers:
                entry["headers"] = {key: literal(value) for key, value in target.headers.items()}
            yield f"      {text(name)}: {flow(entry)}"
        yield f"    policy: {flow(self.policy)}"
        if self.fallback:
            yield f"    fallback: {flow(self.fallback)}    # in this order, whichever variant fails"
            yield f"    fallback_on: {flow({'status': _STATUSES})}"
        if self.retries:
            on = {"timeout": True, "status": _STATUSES}
            backoff = {"base": _time(min(1.0, self.delay) * 1000), "max": _time(self.delay * 1000)}
            retry = {"attempts": self.retries + 1, "replayable": True, "on": on, "backoff": backoff}
            yield f"    retry: {flow(retry)}"
        yield from self._timeouts(longest)

    def _timeouts(self, longest: float) -> Iterator[str]:
        first = max(min(one.whole or longest, longest) for one in self.limits)
        total = max(first, *(min(one.stream or longest, longest) for one in self.limits))
        if tokens := [one.first_token for one in self.limits if one.first_token and one.first_token < first]:
            waits = _time(max(tokens))
            yield f"    # TensorZero waits {waits} for the first token of a stream; first_byte is for every response"
        # Of all attempts: in the time of one, no retry could follow a timeout.
        step = total * (1 + self.retries) + 1000 * self.delay * self.retries
        times = {"connect": "1s", "first_byte": _time(first), "idle": _time(first)}
        yield f"    timeouts: {flow({**times, 'total': _time(step * (1 + len(self.fallback)))})}"


def by_hand_lines(by_hand: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What is not imported: what to do instead, and below it the keys of the file."""
    for advice, keys in by_hand.items():
        yield from textwrap.wrap(f"- {advice}:", 110, subsequent_indent="  ")
        yield from textwrap.wrap(
            ", ".join(keys), 106, initial_indent="    ", subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip


def comments(texts: Iterable[str], indent: str = "") -> list[str]:
    return [f"{indent}# {printable(line)}" for one in texts for line in one.splitlines()]


def literal(value: str) -> str:
    """``value``, in which nothing is a variable."""
    return value.replace("${", "$${")


def text(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def flow(value: object) -> str:
    """``value`` in one line of YAML."""
    match value:
        case dict():
            return "{" + ", ".join(f"{text(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(flow, value)) + "]"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:.15g}"
        case _:
            return text(str(value))


def _time(milliseconds: float) -> str:
    seconds = milliseconds / 1000
    if seconds > 600:
        seconds = 60 * math.ceil(seconds / 60)
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:.15g}m"
    return f"{seconds:.15g}s" if seconds >= 1 or not seconds else f"{milliseconds:.15g}ms"
