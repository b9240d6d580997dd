"""Faults of a configuration file: position, message, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

MAX_FAULTS: Final = 200
"""Faults, or warnings, that are reported of one document."""
_MAX_LISTED: Final = 24
"""Names that are listed where one is unknown; those of a route, all of them."""
_MAX_SIMILAR: Final = 500
"""Names that a misspelt one is compared with, since that takes 20 µs each."""
KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of the document to a value."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault or warning. ``line`` and ``column`` count from 1; 0 if it has no position."""

    line: int
    column: int
    path: str
    """``routes.digits.policy.stages[0].weight``; "" for the file as a whole."""
    message: str
    """What is wrong and, if there is a general rule, what to write."""
    hint: str = ""
    """What to write in this case; "" if unknown."""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(Exception):
    """A configuration with faults, which are in the order of the file."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        super().__init__(render_faults(faults, source=source))
        self.source = source
        self.faults = tuple(faults)


def render_path(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def render_faults(faults: Sequence[Fault], *, source: str = "") -> str:
    """One line per fault (``file:line:column: path: message (hint)``)."""
    return "\n".join(_place(source, fault) + str(fault) for fault in faults)


def _place(source: str, fault: Fault) -> str:
    parts = [source] if source else []
    if fault.line:
        parts += [str(fault.line), str(fault.column)]
    return ":".join(parts) + ": " if parts else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?", or "" if no known word is similar; the one of the same parts in another order first."""
    words = list(islice(known, _MAX_SIMILAR))
    swapped = [name for name in words if sorted(name.split("_")) == sorted(word.split("_"))]
    found = swapped or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else ""


def unknown(what: str, word: str, known: Iterable[str]) -> tuple[str, str]:
    """Message and hint for an undeclared name."""
    names = list(known)
    listed = ", ".join(names[:_MAX_LISTED]) + (", ..." if len(names) > _MAX_LISTED else "")
    tail = f"known: {listed}" if names else "there are none"
    return f"there is no {what} '{word}'; {tail}", nearest(word, names)
