"""Messages for pydantic's validation errors, with the key paths of the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.auth import Scope
from gateway.config.faults import KeyPath, nearest, unknown
from gateway.config.kubernetes import AnyEngine
from gateway.config.policy import PolicyConfig
from gateway.config.shape import every_section, keys_at, unfold, yaml_keys
from policies.types import MetricType

Explanation = tuple[str, str]
"""A message and a hint, which may be empty."""


KEY: Final = "[key]"
"""Last part of pydantic's location if a key itself is wrong."""


def holds(data: Any, part: str | int) -> bool:
    """Whether ``data[part]`` exists."""
    if isinstance(data, list):
        return isinstance(part, int) and 0 <= part < len(data)
    return isinstance(data, dict) and part in data


def locate(location: tuple[str | int, ...], data: Any, *, missing: bool = False) -> KeyPath:
    """The path in ``data`` of pydantic's ``location``, which also contains the tags of unions.

    The last part of a ``missing`` key is kept, although ``data`` does not have it.
    """
    path: list[str | int] = []
    for index, part in enumerate(location):
        if holds(data, part):
            data = data[part]
            path.append(part)
        elif part == KEY:
            break
        elif missing and index == len(location) - 1:
            path.append(part)
    return tuple(path)


def single_errors(error: ValidationError) -> list[ErrorDetails]:
    """The errors, without those of lists that are too short only because of errors inside them."""
    found = error.errors(include_url=False)
    places = [detail["loc"] for detail in found]

    def echo(detail: ErrorDetails) -> bool:
        outer = detail["loc"]
        return detail["type"] == "too_short" and any(
            place != outer and place[: len(outer)] == outer for place in places
        )

    return [detail for detail in found if not echo(detail)]


def explain(error: ErrorDetails) -> Explanation:
    """Message and hint for one error."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(error)
    if kind == "missing":
        key = str(error["loc"][-1])
        return f"the key '{key}' is missing; write {_EXAMPLES.get(key, 'it')}", ""
    if kind == "value_error" and given is None:
        return _NOTHING, ""
    if kind == "value_error":
        return str(context.get("error", error["msg"])), ""
    if kind in ("literal_error", "union_tag_invalid"):
        return _choice(kind, given, context)
    if kind == "union_tag_not_found":
        kinds = _ENGINES if error["loc"][0] == "engines" else _POLICIES
        return f"the key 'type' is missing; write one of {kinds}", ""
    if given is None and kind in _WANTED:
        return f"nothing is written here; write {_WANTED[kind]}, or leave the key out", ""
    if kind in _WANTED:
        hint = _mapping_hint(error) if _WANTED[kind] == _MAPPING else _WANTED_HINTS.get(kind, _no_hint)(given)
        if error["loc"][-1] == "url" and type(given) is int:
            hint = f'write "http://127.0.0.1:{given}"'
        if example := not hint and _EXAMPLES.get(str(error["loc"][-1]), ""):
            hint = f"write {example}"
        return f"{shown(given)} is not {_WANTED[kind]}", hint
    if kind in _BOUNDS:
        return f"{shown(given)} is {_BOUNDS[kind].format(**context)}", ""
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}", ""


def _unknown_key(error: ErrorDetails) -> Explanation:
    key = str(error["loc"][-1])
    message, hint = unknown("key", key, keys_at(error["loc"][:-1]))
    return message, _elsewhere(key, error["loc"]) or hint


def _elsewhere(key: str, location: tuple[str | int, ...]) -> str:
    """A hint for a key that belongs to the top of the document, or to only one section of it, or into a text."""
    if key == "port" and location[0] in _PORTS and "health" not in location[2:]:
        return _PORTS[str(location[0])]
    sections = {path for path, model in every_section() if key in yaml_keys(model)}
    if "" in sections:
        return f"'{key}' belongs to the top of the document"
    only = sections.pop() if len(sections) == 1 else ""
    # Another type of policy, for example, is the same section.
    return f"'{key}' belongs to {only}" if only and only.rpartition(".")[2] not in location else ""


def _choices(kind: str, context: dict[str, Any]) -> str:
    text = str(context.get("expected" if kind == "literal_error" else "expected_tags", ""))
    return ", ".join(re.findall(r"'([^']*)'", text)) or text


def _choice(kind: str, given: object, context: dict[str, Any]) -> Explanation:
    choices = _choices(kind, context)
    value = context.get("tag", given) if kind == "union_tag_invalid" else given
    if choices == "True":
        choices = "true"
    several = "one of " if "," in choices else ""
    return f"{shown(value)} is unknown; expected {several}{choices}", nearest(str(value), choices.split(", "))


def shown(value: object) -> str:
    """``value`` as messages quote it, in at most 83 characters."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _no_hint(value: object) -> str:
    return ""


def _mapping_hint(error: ErrorDetails) -> str:
    """A hint with the mapping that a text in its place most likely stands for."""
    given, place = error["input"], error["loc"]
    if place[-2:-1] == ("stages",) and isinstance(given, int | float | str) and not isinstance(given, bool):
        share = f"{given}%" if isinstance(given, int) else given
        return f"write {{weight: {share}, for: 10m}}"
    key = _SHORTHANDS.get(str(place[-1])) or _NAMED_SHORTHANDS.get(str(place[-2:][0]))
    return f"write {{{key}: {given}}}" if key and isinstance(given, str) and _PLAIN.fullmatch(given) else ""


def _quote(value: object) -> str:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return f'write "{value}" in quotes' if plain else 'write it in quotes: "..."'


def _types(union: Any) -> str:
    return ", ".join(
        name for kind in unfold(union) for name in get_args(kind.model_fields["type"].annotation)
    )


_ENGINES: Final = _types(AnyEngine)
_POLICIES: Final = _types(PolicyConfig)
_NOTHING: Final = "nothing is written here; write a value, or leave the key out"

_EXAMPLES: Final = {
    "policy": "for example 'policy: {type: single, variant: NAME}'",
    "variants": "for example 'variants: {v1: {backend: NAME}}'",
    "type": f"one of {', '.join(get_args(MetricType))}",
    "baseline": "'baseline: ' and the name of a variant",
    "candidate": "'candidate: ' and the name of a variant",
    "stages": "for example 'stages: [{weight: 5%, for: 10m}]'",
    "guardrails": "for example 'guardrails: [{metric: error_rate, max_increase: 1%}]'",
    "weights": "for example 'weights: {v1: 90, v2: 10}'",
    "shadows": "for example 'shadows: {v2: 5%}'",
    "timeouts": "for example 'timeouts: {first_byte: 2s}'",
    "backends": "for example 'backends: {NAME: {url: \"http://127.0.0.1:9101\"}}'",
    "metrics": "for example 'metrics: {NAME: {type: boolean}}'",
    "scopes": f"for example 'scopes: [infer]'; there are {', '.join(get_args(Scope))}",
    "hash": "what 'turnout keys new' prints",
}

_PORTS: Final = {
    "port": "write 'listen: 127.0.0.1:8080'",
    "backends": "write it in the address: url: http://127.0.0.1:9101",
}
"""By the first key, what to write in place of the key ``port``."""
_SHORTHANDS: Final = {"match": "path", "policy": "type", "unit": "header", "health": "path"}
_NAMED_SHORTHANDS: Final = {"variants": "backend", "backends": "url", "metrics": "type"}
"""Section → the key whose value a text in place of the section, or of one of its entries, most likely is."""
_PLAIN: Final = re.compile(r"[\w./:-]{1,80}")
_MAPPING: Final = "a mapping of keys to values"

_WANTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "tuple_type": "a list",
    "iterable_type": "a list",
}

_WANTED_HINTS: Final[dict[str, Callable[[object], str]]] = {
    "string_type": _quote,
    "tuple_type": lambda value: "" if isinstance(value, dict) else f"write [{value}]",
}

_BOUNDS: Final = {
    "greater_than": "too small; write more than {gt:g}",
    "greater_than_equal": "too small; write at least {ge:g}",
    "less_than": "too large; write less than {lt:g}",
    "less_than_equal": "too large; write at most {le:g}",
    "too_short": "too short; write at least {min_length}",
    "string_too_short": "too short; write at least {min_length} character(s)",
}
