"""The shape of the JSON that a store holds: JSON of another shape is damaged, like text that is not JSON.

Replicas of two releases share a store during an upgrade. So a release may add fields and values; it never removes a
field, nor gives it values of another type.

A shape is one of

- a type; ``float`` is any number, ``object`` anything
- ``[shape]``: a list; ``{str: shape}``: an object with any names
- ``{"name": shape, "other?": shape}``: an object with at least these fields, of which ``other`` may be absent
- ``(shape, shape)``: one of these
- a predicate of one value
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.state.base import Published, of_stored

Shape = type | list[Any] | dict[Any, Any] | tuple[Any, ...] | Callable[[Any], bool] | None

_SHAPES: Final[dict[str, Shape]] = {}
"""By kind of document."""
_LAST: Final = 253_402_300_800.0
"""The end of the year 9999, in seconds since the epoch."""


def kind(name: str, shape: Shape) -> str:
    """Declare the shape of the documents of a kind; return its ``name``."""
    _SHAPES[name] = shape
    return name


def check_document(kind: str, text: str) -> None:
    """Raises ValueError if ``text`` is not JSON of the shape of its kind."""
    read(text, _SHAPES.get(kind, object))


def read(text: str | bytes, shape: Shape) -> Any:
    """Parse JSON. Raises ValueError if it is none, or has another shape."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not fits(value, shape):
        raise ValueError("its JSON has the wrong shape")
    return value


def fits(value: Any, shape: Shape) -> bool:
    """Whether ``value`` has the ``shape``."""
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and _fields_fit(value, shape)
    if isinstance(shape, type):
        return _has_type(value, shape)
    return value is None if shape is None else shape(value)


def _fields_fit(value: Mapping[str, Any], shape: Mapping[Any, Any]) -> bool:
    if str in shape:
        return all(fits(one, shape[str]) for one in value.values())
    for name, field in shape.items():
        given = name.removesuffix("?")
        if not (fits(value[given], field) if given in value else name.endswith("?")):
            return False
    return True


def _has_type(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind in (bool, object) or not isinstance(value, bool))


def time(value: Any) -> bool:
    """Whether ``value`` is a time, in seconds since the epoch."""
    return _has_type(value, float) and 0 <= value < _LAST


def event_time(value: Any) -> float:
    """The stored time of an event; 0.0 for a damaged one, or webhooks and streams would never get past it."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return 0.0
    return found if time(found) else 0.0


def _object_text(value: Any) -> bool:
    """Whether ``value`` is "" or the text of an object, in which ``variants`` are objects by name."""
    if not isinstance(value, str):
        return False
    try:
        return not value or bool(read(value, {"variants?": {str: {str: object}}}) is not None)
    except ValueError:
        return False


def _allocates(value: Any) -> bool:
    """Whether the ranges of an allocation cover [0, 1) and belong to its variants."""
    bounds, owners = value["bounds"], value["owners"]
    ascending = all(a <= b for a, b in zip([0.0, *bounds], bounds, strict=False))
    owned = all(0 <= owner < len(value["probabilities"]) for owner in owners)
    return ascending and owned and len(bounds) == len(owners) > 0 and bounds[-1] == 1.0


_ALLOCATION: Final[Shape] = {
    "route": str,
    "epoch": int,
    "probabilities": {str: float},
    "bounds": [float],
    "owners": [int],
    "reason": str,
    "time": time,
    "evidence?": _object_text,
}


def published_of(fields: Any) -> Published:
    """The allocation of stored fields. Raises ValueError if they are those of none."""
    if not (fits(fields, _ALLOCATION) and _allocates(fields)):
        raise ValueError("it is not an allocation")
    ends = {"bounds": tuple(fields["bounds"]), "owners": tuple(fields["owners"])}
    return of_stored(Published, fields | ends)
