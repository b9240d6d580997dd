"""From the text of a file to a `Document`, or to every fault that it has."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.config import references
from gateway.config.document import Document
from gateway.config.explain import KEY, explain, locate
from gateway.config.faults import ConfigError, Fault, KeyPath, render_faults, render_path
from gateway.config.prune import Pruned
from gateway.config.yaml_text import LARGEST, Tree, read

__all__ = ["ConfigError", "Examined", "Fault", "examine", "load", "load_file", "read_text", "render_faults"]

_MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of a text. ``document`` is None exactly when there are ``faults``."""

    document: Document | None
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...] = ()


def load(text: str, *, source: str, env: Mapping[str, str]) -> Document:
    """The document in ``text``; ``${NAME}`` in values is taken from ``env``.

    Raises `ConfigError` with every fault at once, and nothing else; ``source`` names the text in it.
    """
    found = examine(text, env=env)
    if found.document is None:
        raise ConfigError(source, found.faults)
    return found.document


def load_file(path: str | Path, env: Mapping[str, str] | None = None) -> Document:
    """`load` of a file, with the process's environment unless ``env`` is given."""
    return load(read_text(path), source=str(path), env=os.environ if env is None else env)


def read_text(path: str | Path) -> str:
    """The text of a file. Raises `ConfigError` when it can't be read, is too large or isn't UTF-8."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST * 4 + 1)
        return data.decode()
    except OSError as error:
        message = f"the file can't be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        message = f"byte {error.start + 1} is not UTF-8; save the file in UTF-8"
    raise ConfigError(str(path), [Fault(0, 0, "", message)])


def examine(text: str, *, env: Mapping[str, str]) -> Examined:
    """All that is to be said of ``text``; never raises."""
    tree, faults = read(text, env)
    if tree is None:
        return Examined(None, tuple(faults))
    document, found = _validate(tree)
    unset = {fault.path for fault in faults if fault.path}
    faults += [fault for fault in found if fault.path not in unset]
    if faults or document is None:
        return Examined(None, tuple(sorted(faults, key=lambda fault: (fault.line, fault.column))))
    warnings = [_fault(tree, finding.path, finding) for finding in references.warnings_of(document)]
    return Examined(document, (), tuple(sorted(warnings, key=lambda fault: (fault.line, fault.column))))


def _validate(tree: Tree) -> tuple[Document | None, list[Fault]]:
    """Validates, cuts out what is wrong, and goes on with the rest, so that one fault hides no other."""
    if not isinstance(tree.data, dict):
        return None, [
            Fault(*tree.place(()), "", "the file is not a mapping of keys to values; write 'listen: ...'")
        ]
    pruned = Pruned(copy.deepcopy(tree.data))
    faults: list[Fault] = []
    for _ in range(_MOST_ROUNDS):
        try:
            document = Document.model_validate(pruned.data, context={"file": True})
        except ValidationError as error:
            faults += _structural(tree, pruned, error)
        else:
            faults += _between(tree, pruned, document)
            return (None if faults else document), faults
    return None, faults


def _structural(tree: Tree, pruned: Pruned, error: ValidationError) -> list[Fault]:
    faults, cut = [], []
    located = [(locate(detail["loc"], pruned.data), detail) for detail in error.errors(include_url=False)]
    for path, detail in located:
        if detail["type"] == "too_short" and any(_inside(other, path) for other, _ in located):
            continue  # it is only too short because of what is wrong inside
        whole = pruned.original(path)
        if not pruned.explains(whole):
            faults.append(
                _fault(
                    tree,
                    whole,
                    references.Finding(whole, *explain(detail)),
                    of_key=detail["type"] == "extra_forbidden" or detail["loc"][-1] == KEY,
                )
            )
        cut.append((path, detail["type"]))
    # From the back, so that places in lists stay right.
    for path, kind in sorted(
        set(cut), key=lambda item: [str(part).rjust(9) for part in item[0]], reverse=True
    ):
        pruned.cut(
            path, missing=kind in ("missing", "union_tag_not_found"), harmless=kind == "extra_forbidden"
        )
    return faults


def _inside(path: KeyPath, outer: KeyPath) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _between(tree: Tree, pruned: Pruned, document: Document) -> list[Fault]:
    names = _names(tree.data)
    places = ((pruned.original(finding.path), finding) for finding in references.faults_of(document, names))
    found = [(path, finding) for path, finding in places if not pruned.explains(path)]
    found += [(finding.path, finding) for finding in _lost_names(tree, pruned, names)]
    return [_fault(tree, path, finding) for path, finding in found]


def _lost_names(tree: Tree, pruned: Pruned, names: references.Names) -> list[references.Finding]:
    """What is to be said of the names in policies that are too faulty to be examined as a whole."""
    found: list[references.Finding] = []
    for route in pruned.without_policy:
        policy = tree.data["routes"][route].get("policy")
        if isinstance(policy, dict):
            found += references.names_in(policy, ("routes", route, "policy"), names, names.variants[route])
    return found


def _names(data: Mapping[str, Any]) -> references.Names:
    def keys(section: object, key: str) -> tuple[str, ...]:
        found = section.get(key) if isinstance(section, dict) else None
        return tuple(found) if isinstance(found, dict) else ()

    routes = {name: keys(data["routes"][name], "variants") for name in keys(data, "routes")}
    return references.Names(keys(data, "backends"), keys(data, "metrics"), routes)


def _fault(tree: Tree, path: KeyPath, finding: references.Finding, *, of_key: bool = False) -> Fault:
    line, column = tree.place(path, key=of_key)
    message, hint = finding.message, finding.hint
    secret = tree.secrets.get(path)
    if secret is not None:
        message, hint = _without_value(message, _value_at(tree.data, path), secret), ""
    return Fault(line, column, render_path(path), message, hint)


def _without_value(message: str, value: object, variable: str) -> str:
    """What came from the environment may be a secret; the variable's name says enough."""
    name = f"the value of ${{{variable}}}"
    message = message.replace(repr(value), name)
    # A short value is no secret, and would be found inside other words.
    return message.replace(value, name) if isinstance(value, str) and len(value) >= 4 else message


def _value_at(data: Any, path: KeyPath) -> object:
    for part in path:
        data = data[part] if not isinstance(data, dict) or part in data else ""
    return data
