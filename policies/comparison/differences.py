"""What a comparison found: how many differences, the first few, and the largest numeric distance."""

from __future__ import annotations

import json
import math
from typing import Final

from policies.comparison.bodies import Json

_MAX_KEPT_DIFFERENCES: Final = 3
_SHOWN_CHARS: Final = 120
_CONTEXT_CHARS: Final = 30
"""Shown before the first difference of two long texts."""
_MAX_DETAIL_CHARS: Final = 1_000


class Findings:
    """Collects differences; keeps the first few, counts the others."""

    __slots__ = ("_distance", "_numbers", "count", "kept")

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[dict[str, str]] = []
        self._distance = 0.0
        self._numbers = False

    def differ(self, where: str, primary: object, shadow: object) -> None:
        self.count += 1
        if len(self.kept) < _MAX_KEPT_DIFFERENCES:
            skipped = _common(primary, shadow)
            self.kept.append(
                {"where": _short(where), "primary": _show(primary, skipped), "shadow": _show(shadow, skipped)}
            )

    def distance(self, distance: float) -> None:
        """A numeric distance was measured; the largest finite one counts."""
        self._numbers = True
        if math.isfinite(distance) and distance > self._distance:
            self._distance = distance

    @property
    def difference(self) -> float | None:
        """The largest distance between two numbers; None when no numbers were compared."""
        return self._distance if self._numbers else None

    def detail(self) -> str:
        """JSON of at most about a kilobyte: the first differences and how many there are."""
        if not self.count:
            return ""
        for kept in range(len(self.kept), -1, -1):
            text = json.dumps({"differences": self.count, "first": self.kept[:kept]})
            if len(text) <= _MAX_DETAIL_CHARS:
                return text
        raise AssertionError("an empty list of differences is short")


def _common(a: object, b: object) -> int:
    """Characters to leave out at the start of two long texts, so that their first difference is seen."""
    if isinstance(a, str) and isinstance(b, str) and max(len(a), len(b)) > _SHOWN_CHARS:
        same = _same_chars(a, b)
        return same - _CONTEXT_CHARS if same > _SHOWN_CHARS // 2 else 0
    return 0


def _same_chars(a: str, b: str) -> int:
    """Characters that both texts begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _show(value: object, skipped: int = 0) -> str:
    if isinstance(value, bytes):
        return _short(value[:_SHOWN_CHARS].decode("utf-8", "backslashreplace"))
    if isinstance(value, str):
        return _short("…" + value[skipped:]) if skipped else _short(value)
    return _short(_outline(value))


def _outline(value: Json) -> str:
    """A value in few characters, without going through all of a large one."""
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a very large whole number"
    return repr(value)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def close(a: float, b: float, tolerance: float) -> bool:
    """|a - b| <= tolerance * max(1, |a|, |b|); NaN agrees with NaN, an infinity with itself."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return True
    if math.isinf(a) or math.isinf(b):
        return False
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))
