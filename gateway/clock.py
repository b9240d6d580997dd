"""The one place that reads the clock and throws the dice, so that tests can do both."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch, as a float."""

wall: Clock = time.time
"""The real clock."""

Chance = Callable[[], float]
"""A uniform draw from [0, 1) with 53 bits."""


def chance() -> Chance:
    """A fresh source, seeded by the system: for assignment and jitter, never for secrets."""
    return random.Random(secrets.randbits(256)).random
