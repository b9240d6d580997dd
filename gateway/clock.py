"""The one place that reads the clock, so that tests can drive time."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch, as a float."""

wall: Clock = time.time
"""The real clock."""
