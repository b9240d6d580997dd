"""What an edit of the configuration changes, in words: from the two texts, so that no secret is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff
from itertools import takewhile
from typing import Any, Final

from gateway.config.yaml_text import as_written

MAX_CHANGES: Final = 40
MIN_SHARE_CHANGE: Final = 0.0005
"""A share that moves by less is shown as the same."""
AT_START: Final = frozenset({"listen", "control", "store", "record", "workers"})
"""Sections that are read once, when the process starts."""
_SECRET: Final = frozenset(
    {"hash", "key", "token", "server_token", "secret", "password", "authorization", "x-api-key"}
)
MAX_VALUE_CHARS: Final = 60
_ABSENT: Final = object()


MAX_MATCHES: Final = 100_000
"""Pairs of equal lines up to which the smallest difference is looked for."""


def difference(before: str, after: str, first: str, second: str) -> str:
    """Return a unified difference; "" if the texts are equal. Not the smallest one where that would take seconds."""
    old, new = before.splitlines(), after.splitlines()
    if _matches(old, new) <= MAX_MATCHES:
        return "\n".join(unified_diff(old, new, first, second, lineterm=""))
    start = sum(1 for _ in takewhile(_equal, zip(old, new, strict=False)))
    left = zip(reversed(old[start:]), reversed(new[start:]), strict=False)
    end = sum(1 for _ in takewhile(_equal, left))
    out, into = old[start : len(old) - end], new[start : len(new) - end]
    ranges = f"@@ -{start + bool(out)},{len(out)} +{start + bool(into)},{len(into)} @@"
    lines = [f"--- {first}", f"+++ {second}", ranges, *(f"-{x}" for x in out), *(f"+{x}" for x in into)]
    return "\n".join(lines) if out or into else ""


def _equal(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _matches(old: Sequence[str], new: Sequence[str]) -> int:
    """Pairs of equal lines, which `difflib` looks at several times; it leaves out lines that are 1 % of ``new``."""
    counts = Counter(new)
    most = len(new) // 100 + 1 if len(new) >= 200 else len(new)
    return sum(n * counts[line] for line, n in Counter(old).items() if counts[line] <= most)


Shares = Mapping[str, Mapping[str, float]]
"""By route, the share of each variant."""


def share_changes(before: Shares, after: Shares) -> dict[str, dict[str, Mapping[str, float]]]:
    """Return by route the shares before and after, where they differ."""
    return {
        name: {"before": before[name], "after": shares}
        for name, shares in after.items()
        if any(
            abs(before[name].get(v, 0.0) - shares.get(v, 0.0)) >= MIN_SHARE_CHANGE
            for v in before[name].keys() | shares.keys()
        )
    }


def changes(
    before: str, after: str, shares: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
) -> list[str]:
    """Return a sentence for each value that changes, at most `MAX_CHANGES`, and the effects on routes and the process.

    Both texts must have been checked. ``shares``: the `share_changes`.
    """
    old, new = (as_written(text)[0] or {} for text in (before, after))
    said = list(_changed((), old, new))
    if not said:
        return ["Only comments or the layout change."]
    more = len(said) - MAX_CHANGES
    shown = said[:MAX_CHANGES] + ([f"{more} more changes"] if more > 0 else [])
    restart = sorted(key for key in AT_START if old.get(key) != new.get(key))
    moved = [_moved(name, one["before"], one["after"]) for name, one in (shares or {}).items()]
    return (
        shown + list(_of_routes(old, new)) + moved + [f"needs a restart: {', '.join(restart) or 'nothing'}"]
    )


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


def _moved(route: str, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """ "digits: shares v1 2.7% → 6.1%, v2 97.3% → 93.9%"."""
    parts = []
    for variant in [*after, *(v for v in before if v not in after)]:
        old, new = before.get(variant), after.get(variant)
        was = "" if old is None else f"{_percent(old)} → "
        parts.append(f"{variant} {was}{'removed' if new is None else _percent(new)}")
    return f"{route}: shares {', '.join(parts)}"


def _percent(share: float) -> str:
    return f"{round(share * 100, 1):g}%"


def _changed(path: tuple[str, ...], old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _changed((*path, str(key)), old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and not _secret(path):
        for k, pair in enumerate(zip(old, new, strict=True)):
            yield from _changed((*path[:-1], f"{path[-1]}[{k}]"), *pair)
    elif new is _ABSENT:
        yield f"{'.'.join(path)}: removed (was {_value(path, old)})"
    elif old is _ABSENT:
        yield f"{'.'.join(path)}: added, {_value(path, new)}"
    else:
        yield f"{'.'.join(path)}: {_value(path, old)} → {_value(path, new)}"


def _secret(path: tuple[str, ...]) -> bool:
    return path[0] == "auth" or path[-1].lower() in _SECRET


def _masked(path: tuple[str, ...], value: Any) -> Any:
    """``value`` without secrets, also those inside a section that is added or removed."""
    if _secret(path):
        return "…"
    if isinstance(value, dict):
        return {key: _masked((*path, str(key)), part) for key, part in value.items()}
    return [_masked(path, part) for part in value] if isinstance(value, list) else value


def _value(path: tuple[str, ...], value: Any) -> str:
    value = _masked(path, value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"
