"""The JSON Schema of the configuration, for editors: completion, descriptions and faults while typing.

It is read off the models. It accepts everything that `gateway.config.load` accepts; what one section says
about another (a variant that is not declared, shares that do not add up) only ``turnout check`` can tell.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any, Final

from pydantic import BaseModel

from gateway.config.document import Document
from gateway.config.shape import every_section

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Final = frozenset(
    {"default", "required", "examples", "enum", "pattern", "properties", "discriminator", "const"}
)
"""Keywords whose value holds no schema, or schemas by name."""
_BOUNDS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""pydantic's words, which it leaves where a validator stands before the bound."""
_BOOLEANS: Final = "|".join(
    "".join(f"[{letter}{letter.upper()}]" for letter in word)
    for word in ("true", "t", "yes", "y", "on", "1", "false", "f", "no", "n", "off", "0")
)
TEXT: Final[dict[str, Any]] = {
    "Variable": {
        "type": "string",
        "pattern": r"\$\{(?:file:[^}]+|[A-Za-z_][A-Za-z0-9_]*(?::-[^}]*)?)\}",
        "description": "Text that the environment completes",
    },
    "Number": {
        "type": "string",
        "pattern": r"^\s*[-+]?[0-9._]+(?:[eE][-+]?[0-9]+)?\s*$|\$\{",
        "description": "A number in quotes, or from the environment",
    },
    "Boolean": {
        "anyOf": [{"enum": [0, 1]}, {"type": "string", "pattern": f"^(?:{_BOOLEANS})$"}],
        "description": "A boolean in other words",
    },
}
"""What may stand in place of a leaf: name below ``$defs`` → schema."""
_ADMITTED: Final = {"integer": ("Number",), "number": ("Number",), "boolean": ("Boolean", "Variable")}
"""Type of a leaf → what may stand in its place."""


def json_schema() -> dict[str, Any]:
    """The schema of the whole document."""
    schema = Document.model_json_schema(by_alias=True, mode="validation")
    sections = schema.pop("$defs")
    for _, model in every_section():
        _describe(schema if model is Document else sections.get(model.__name__), model)
    whole = {"$schema": DIALECT, **_open(schema), "title": "Turnout configuration"}
    return {**whole, "$defs": {**{name: _open(part) for name, part in sections.items()}, **TEXT}}


def _describe(section: dict[str, Any] | None, model: type[BaseModel]) -> None:
    """Give the section's keys the docstrings that stand below the model's fields."""
    if section is None:
        return
    for name, text in _field_docstrings(model).items():
        key = model.model_fields[name].alias or name
        section["properties"][key].setdefault("description", text)


def _field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = inspect.cleandoc(text.value)
    return found


def _open(part: Any) -> Any:
    """``part`` with everything admitted that may stand in place of its leaves, and without generated titles."""
    if isinstance(part, list):
        return [_open(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {
        _BOUNDS.get(key, key): value if key in _PLAIN or key in _BOUNDS else _open(value)
        for key, value in part.items()
        if key != "title" or not isinstance(value, str)
    }
    if "properties" in part:
        found["properties"] = {name: _open(each) for name, each in part["properties"].items()}
        # A tag has a default in code, and yet must be written.
        tags = [name for name, each in part["properties"].items() if "const" in each and "default" in each]
        found["required"] = [*tags, *part.get("required", ())]
    # Not oneOf: an empty section may fit several alternatives, of which the gateway takes the first.
    alternatives = found.pop("anyOf", None) or found.pop("oneOf", None) or [found]
    admitted = dict.fromkeys(name for each in alternatives for name in _instead(each))
    if not admitted:
        return {**found, "anyOf": alternatives} if alternatives != [found] else found
    about = {key: found.pop(key) for key in ("description", "default") if key in found}
    return {**about, "anyOf": [*alternatives, *({"$ref": f"#/$defs/{name}"} for name in admitted)]}


def _instead(leaf: dict[str, Any]) -> tuple[str, ...]:
    if "enum" in leaf or "pattern" in leaf:
        return ("Variable",)
    return _ADMITTED.get(leaf.get("type", ""), ())
