"""What an edit of the configuration changes, in words: from the two texts, so that no secret is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from typing import Any, Final

import yaml

MAX_CHANGES: Final = 40
AT_START: Final = frozenset({"listen", "control", "store", "record", "workers"})
"""Sections that are read once, when the process starts."""
_SECRET: Final = frozenset({"hash", "key", "token", "password", "authorization"})
MAX_VALUE_CHARS: Final = 60
_ABSENT: Final = object()


def difference(before: str, after: str, first: str, second: str) -> str:
    """Return a unified difference; "" if the texts are equal."""
    lines = unified_diff(before.splitlines(), after.splitlines(), first, second, lineterm="")
    return "\n".join(lines)


def changes(before: str, after: str) -> list[str]:
    """Return a sentence for each value that changes, at most `MAX_CHANGES`, and the effects on routes and the process.

    Both texts must have been checked.
    """
    old, new = yaml.safe_load(before) or {}, yaml.safe_load(after) or {}
    said = list(_changed((), old, new))
    if not said:
        return ["Only comments or the layout change."]
    more = len(said) - MAX_CHANGES
    shown = said[:MAX_CHANGES] + ([f"{more} more changes"] if more > 0 else [])
    restart = sorted(key for key in AT_START if old.get(key) != new.get(key))
    return shown + list(_of_routes(old, new)) + [f"needs a restart: {', '.join(restart) or 'nothing'}"]


def _of_routes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The effects on the traffic of routes that remain."""
    before, after = old.get("routes") or {}, new.get("routes") or {}
    for name in before.keys() & after.keys():
        policies = [(route or {}).get("policy") or {} for route in (before[name], after[name])]
        pairs = [(p.get("type"), p.get("baseline"), p.get("candidate")) for p in policies]
        if pairs[0] != pairs[1] and pairs[1][0] == "canary":
            yield f"{name}: its rollout begins at the first stage"
        elif pairs[0][0] != pairs[1][0]:
            yield f"{name}: another policy decides, and shares follow it immediately"


def _changed(path: tuple[str, ...], old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _changed((*path, str(key)), old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif new is _ABSENT:
        yield f"{'.'.join(path)}: removed (was {_value(path, old)})"
    elif old is _ABSENT:
        yield f"{'.'.join(path)}: added, {_value(path, new)}"
    else:
        yield f"{'.'.join(path)}: {_value(path, old)} → {_value(path, new)}"


def _value(path: tuple[str, ...], value: Any) -> str:
    if path[0] == "auth" or path[-1].lower() in _SECRET:
        return "…"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"
