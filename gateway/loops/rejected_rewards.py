"""Whether clients report rewards that are refused: a sliding window over the totals of one process."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

WINDOW_S: Final = 300.0
MIN_REJECTED: Final = 20
"""Fewer refused items in the window raise no alarm."""
MAX_REJECTED_SHARE: Final = 0.05


class RejectedRewards:
    """Compares totals that only grow with those of the beginning of the window."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, Counter[str]]] = deque()

    def look(self, now: float, items: int, rejected: Mapping[str, int]) -> str:
        """Return the alarm's message; "" if there is none.

        Args:
            now: Seconds since the epoch.
            items: Items received so far.
            rejected: Error code → items rejected so far.
        """
        self._seen.append((now, items, Counter(rejected)))
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()
        _, items_before, rejected_before = self._seen[0]
        recent, received = Counter(rejected) - rejected_before, items - items_before
        if recent.total() < MIN_REJECTED or recent.total() <= MAX_REJECTED_SHARE * received:
            return ""
        code, most = recent.most_common(1)[0]
        return (
            f"{recent.total()} of {received} reported rewards were rejected in the last {WINDOW_S / 60:.0f} minutes, "
            f"{most} with '{code}'; the response to POST /-/feedback names each."
        )
