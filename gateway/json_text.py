"""JSON as the gateway writes it."""

from __future__ import annotations

import json
from typing import Any


def compact(value: Any) -> bytes:
    """Return ``value`` as JSON in UTF-8, without spaces. Raises ValueError for NaN and infinity: they are not JSON.

    Half of a surrogate pair, which models cut an emoji to and UTF-8 cannot hold, is written as its escape.
    """
    try:
        return _dumped(value, plain=False).encode()
    except UnicodeEncodeError:
        return _dumped(value, plain=True).encode()


def _dumped(value: Any, *, plain: bool) -> str:
    return json.dumps(value, ensure_ascii=plain, allow_nan=False, separators=(",", ":"))
