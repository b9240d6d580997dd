"""Whether too large a share of what one process received went wrong: a sliding window over totals."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

WINDOW_S: Final = 300.0
MIN_BAD: Final = 20
"""Fewer bad items in the window raise no alarm."""
MAX_BAD_SHARE: Final = 0.05


class RecentShare:
    """Compares totals that only grow with those of the beginning of the window."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, Counter[str]]] = deque([(0.0, 0, Counter())])

    def look(self, now: float, items: int, bad: Mapping[str, int]) -> tuple[int, Counter[str]]:
        """Return the items of the window, and the bad ones by kind: none if they are too few to matter.

        Args:
            now: Seconds since the epoch.
            items: Items received so far.
            bad: Kind → items that went wrong so far.
        """
        if now < self._seen[-1][0]:  # the clock was set back: the window would be that much longer
            self._seen = deque([(now, *self._seen[-1][1:])])
        self._seen.append((now, items, Counter(bad)))
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()
        _, items_before, bad_before = self._seen[0]
        recent, received = Counter(bad) - bad_before, items - items_before
        if recent.total() < MIN_BAD or recent.total() <= MAX_BAD_SHARE * received:
            recent.clear()
        return received, recent
