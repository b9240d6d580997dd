"""Early evidence of a sample-ratio mismatch: too weak for an alarm, strong enough to hold a promotion.

An alarm needs an e-value of 1,000. A mismatch takes a while to get there, and a candidate could be promoted meanwhile
on a comparison that does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from gateway.state import shapes
from gateway.state.store import DocumentStore

EARLY_ALPHA: Final = 0.05
"""Probability that a healthy route is ever held, over all looks at it until its section is edited."""
KIND: Final = shapes.kind("early_mismatch", {"message": str, "since": float})
_NONE: Final = json.dumps({"message": "", "since": 0.0})


async def early_mismatch(store: DocumentStore, name: str, since: float) -> str:
    """ "" or why the route ``name`` is not to go forward yet: evidence that came up after ``since``."""
    found = await store.load(KIND, name)
    kept = json.loads(found[1] if found is not None else _NONE)
    return kept["message"] if kept["since"] > since else ""


async def keep(
    store: DocumentStore, name: str, stored: Mapping[str, tuple[int, str]], message: str, since: float
) -> None:
    """Store the evidence on the route ``name``, or that it is gone if ``message`` is empty, if that is a change.

    ``stored``: what the store has, by route.
    """
    version, text = stored.get(name, (0, _NONE))
    before = json.loads(text)
    if bool(message) != bool(before["message"]) or before["since"] > since:  # the clock was set back
        kept = json.dumps({"message": message, "since": since}) if message else _NONE
        await store.save(KIND, name, kept, expected=version)  # or at the next look, if another was faster
