"""The JSON part of an inference request: its parsing, and checks of single values."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson

from backends.errors import InvalidInput

_INPUTS: Final = re.compile(rb'"inputs"\s*:')
_PARAMETER_TYPES: Final = frozenset({str, int, float, bool})


def parse_json(text: memoryview, hint: str = "") -> object:
    """Parse JSON. Raises InvalidInput that ends with ``hint``."""
    try:
        with _no_collection():
            return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"not valid JSON ({error.msg}, byte {error.pos}){hint}") from None


def refuse_duplicates(text: memoryview) -> None:
    """Raise InvalidInput if the outermost object has a key twice: parsers differ in which one they take."""
    if len(_INPUTS.findall(text)) < 2:
        return
    try:
        with _no_collection():
            names = [key for key, _ in json.loads(bytes(text), object_pairs_hook=list)]
    except RecursionError:  # orjson takes 1,024 levels, more than this parser
        raise InvalidInput("the JSON is nested too deeply; send numbers in flat lists") from None
    if len(set(names)) != len(names):
        raise InvalidInput("a key occurs twice in the request; send each once")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stops the garbage collector, which would walk all new lists again and again.

    Several threads may do so at once: whichever ends first turns it on, and no order of theirs leaves it off.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def json_object(body: bytes) -> dict[str, Any]:
    """``body`` as a JSON object. Raises InvalidInput."""
    return as_object(parse_json(memoryview(body)), "the body")


def as_object(value: object, what: str) -> dict[str, Any]:
    """``value`` as an object. Raises InvalidInput."""
    if type(value) is not dict:
        raise InvalidInput(f"{what} is not a JSON object; send one")
    return value


def parameters_of(document: dict[str, Any], what: str) -> dict[str, Any]:
    """The parameters of a part of the request. Raises InvalidInput."""
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    as_object(parameters, f"parameters of {what}")
    for name, value in parameters.items():
        if type(value) not in _PARAMETER_TYPES:
            raise InvalidInput(f"parameter {name} of {what} is not a string, number or boolean; send one")
    return parameters  # type: ignore[no-any-return]


def flag(parameters: dict[str, Any], name: str, default: bool = False) -> bool:
    """A boolean parameter. Raises InvalidInput."""
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise InvalidInput(f"parameter {name} is not a boolean; send true or false")
    return value


def request_id(value: object) -> str | None:
    """The id of a request; an empty one is none, as in Triton. Raises InvalidInput."""
    if value is not None and type(value) is not str:
        raise InvalidInput("id is not a string; send it in quotes")
    return value or None


def timeout(parameters: dict[str, Any]) -> float:
    """Seconds that the request may wait; 0.0: any. Raises InvalidInput."""
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise InvalidInput("stateful sequences are not served here; send each request without sequence_id")
    if "priority" in parameters:
        _natural(parameters, "priority", "0 or more; it has no effect here")
    return _natural(parameters, "timeout", "microseconds, 0 or more") / 1e6


def _natural(parameters: dict[str, Any], name: str, wanted: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or value < 0:
        raise InvalidInput(f"parameter {name} is not a whole number; send {wanted}")
    return value
