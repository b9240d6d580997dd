"""Any JSON: trees compared node by node, numbers within a tolerance, scores by the place of the largest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from policies.comparison.bodies import Comparison, Json, Malformed
from policies.comparison.differences import Findings, close
from policies.comparison.tensors import Tensor, compare_tensors

MISSING: Final = object()
_MAX_VALUES: Final = 200_000
"""Values that are compared one by one; lists of numbers are compared whole and don't count."""

_Pair = tuple[str, Json, Json]


def compare(where: str, primary: Json, shadow: Json, how: Comparison, findings: Findings) -> None:
    """Walks both trees with a stack of its own, so that no depth of nesting matters.

    Raises Malformed when there are too many values.
    """
    stack: list[Iterator[_Pair]] = [iter([(where, primary, shadow)])]
    left = _MAX_VALUES
    while stack:
        pair = next(stack[-1], None)
        if pair is None:
            stack.pop()
            continue
        left -= 1
        if left < 0:
            raise Malformed(f"the responses have more than {_MAX_VALUES} values")
        inner = _visit(*pair, how, findings)
        if inner is not None:
            stack.append(inner)


def _visit(path: str, a: Json, b: Json, how: Comparison, findings: Findings) -> Iterator[_Pair] | None:
    """Compares two leaves, or two lists of numbers; returns what lies inside of others."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return ((_join(path, key), a.get(key, MISSING), b.get(key, MISSING)) for key in keys)
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
    return "missing" if value is MISSING else value


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


# Paths ------------------------------------------------------------------------------------------------
def pick(document: Json, path: str) -> Json:
    """What lies at ``path``: keys and list positions joined by dots; ``*`` gives a list of all. Else `MISSING`."""
    return _pick(document, path.split("."))


def _pick(node: Json, keys: list[str]) -> Json:
    for place, key in enumerate(keys):
        if key == "*" and isinstance(node, dict | list):
            inner = node.values() if isinstance(node, dict) else node
            found = [each for value in inner if (each := _pick(value, keys[place + 1 :])) is not MISSING]
            return found or MISSING
        step = _step(node, key)
        if step is None:
            return MISSING
        node = node[step]
    return node


def _step(node: Json, key: str) -> str | int | None:
    """The key or position in ``node`` that ``key`` names."""
    if isinstance(node, dict) and key in node:
        return key
    if isinstance(node, list) and key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(node):
        return int(key)
    return None


def remove(document: Json, path: str) -> None:
    """Removes what lies at ``path``. A place in a list stays, and is null, so that the others keep theirs."""
    *keys, last = path.split(".")
    nodes = [document]
    for key in keys:
        nodes = [inner for node in nodes for inner in _inside(node, key)]
    for node in nodes:
        for step in _steps(node, last):
            if isinstance(node, dict):
                del node[step]
            else:
                node[step] = None


def _inside(node: Json, key: str) -> list[Json]:
    return [node[step] for step in _steps(node, key)]


def _steps(node: Json, key: str) -> list[Any]:
    if key == "*" and isinstance(node, dict | list):
        return list(node) if isinstance(node, dict) else list(range(len(node)))
    step = _step(node, key)
    return [] if step is None else [step]
