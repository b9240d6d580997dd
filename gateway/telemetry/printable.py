"""Text that others wrote, as a terminal or a log may show it."""

from __future__ import annotations

import re
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys instead of showing them; the tabulator and the line feed are harmless."""


def printable(text: str) -> str:
    """Return ``text`` with control characters as escapes, since clients wrote parts of it."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
