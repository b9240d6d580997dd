"""Exceptions that are faults of ours: counted, and logged once for each place that raises."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

log = logging.getLogger("turnout")


class InternalErrors:
    """What a callback of the data plane raised although it must not."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By the exception's type."""
        self._logged: set[tuple[type[BaseException], str, int]] = set()

    def report(self, error: BaseException) -> None:
        """Counts ``error``; the first of its kind and place is logged with its trace."""
        self.counts[type(error).__name__] += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ("", 0)
        if (type(error), *place) not in self._logged:
            self._logged.add((type(error), *place))
            log.error("an error inside the gateway; further ones like it are only counted", exc_info=error)


INTERNAL_ERRORS: Final = InternalErrors()
"""Of this process."""
