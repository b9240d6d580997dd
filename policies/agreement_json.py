"""Any JSON: trees compared node by node, numbers within a tolerance, scores by the place of the largest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from policies.agreement_findings import Findings, close
from policies.agreement_forms import Comparison, Json, Malformed
from policies.agreement_tensors import Tensor, compare_tensors

_MISSING: Final = object()
_MOST_VALUES: Final = 200_000
"""Values that are compared one by one; lists of numbers are compared whole and don't count."""

_Pair = tuple[str, Json, Json]


def compare(where: str, primary: Json, shadow: Json, how: Comparison, findings: Findings) -> None:
    """Walks both trees with a stack of its own, so that no depth of nesting matters.

    Raises Malformed when there are too many values.
    """
    stack: list[Iterator[_Pair]] = [iter([(where, primary, shadow)])]
    left = _MOST_VALUES
    while stack:
        pair = next(stack[-1], None)
        if pair is None:
            stack.pop()
            continue
        left -= 1
        if left < 0:
            raise Malformed(f"the answers have more than {_MOST_VALUES} values")
        inner = _visit(*pair, how, findings)
        if inner is not None:
            stack.append(inner)


def _visit(path: str, a: Json, b: Json, how: Comparison, findings: Findings) -> Iterator[_Pair] | None:
    """Compares what can be compared at once; gives what lies inside."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return ((_join(path, key), a.get(key, _MISSING), b.get(key, _MISSING)) for key in keys)
    if not (isinstance(a, list) and isinstance(b, list)):
        if not _same(a, b, how, findings):
            findings.differ(path, _name(a), _name(b))
        return None
    if len(a) != len(b):
        findings.differ(path, a, b)
        return None
    if _numeric(a) and _numeric(b):
        _compare_numbers(path, a, b, how, findings)
        return None
    # A row of a table of scores goes by the name of the table, so that each row is ranked.
    same_name = how.ranked(path)
    return (
        (path if same_name else _join(path, str(i)), x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))
    )


def _join(path: str, key: str) -> str:
    return f"{path[-400:]}.{key[:80]}" if path else key[:80]


def _name(value: Json) -> Json:
    return "missing" if value is _MISSING else value


def _numeric(values: list[Json]) -> bool:
    return bool(values) and set(map(type, values)) <= {int, float}


def _number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: Json, b: Json, how: Comparison, findings: Findings) -> bool:
    """Leaves: whole numbers exactly, other numbers within the tolerance, the rest by equality of type too."""
    if not (_number(a) and _number(b)):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    x, y = _float(a), _float(b)
    findings.distance(abs(x - y) if not math.isnan(x - y) else 0.0)
    return close(x, y, how.tolerance)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _compare_numbers(path: str, a: list[Json], b: list[Json], how: Comparison, findings: Findings) -> None:
    """Two lists of as many numbers: exactly where all are whole, else within the tolerance."""
    whole = {*map(type, a), *map(type, b)} == {int}
    rank = replace(how, argmax=(path,) if how.ranked(path) else ())
    compare_tensors(path, _tensor(a, whole=whole), _tensor(b, whole=whole), rank, findings)


def _tensor(values: list[Json], *, whole: bool) -> Tensor:
    if whole:
        return Tensor("int", (len(values),), np.asarray(values, dtype=object))
    return Tensor("float", (len(values),), np.asarray([_float(value) for value in values], dtype=np.float64))


def pick(document: Json, path: str) -> Json:
    """What lies at ``path``: keys and list positions joined by dots. `MISSING` when nothing does."""
    node = document
    for key in path.split("."):
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif (
            isinstance(node, list)
            and key.isascii()
            and key.isdigit()
            and len(key) < 10
            and int(key) < len(node)
        ):
            node = node[int(key)]
        else:
            return _MISSING
    return node


def compare_paths(primary: Json, shadow: Json, how: Comparison, findings: Findings) -> None:
    """Only what lies at the declared paths. Raises Malformed when none of them is in either answer."""
    found = False
    for path in how.paths:
        a, b = pick(primary, path), pick(shadow, path)
        if a is _MISSING and b is _MISSING:
            continue
        found = True
        compare(path, a, b, how, findings)
    if not found:
        raise Malformed("none of the declared paths is in either answer")
