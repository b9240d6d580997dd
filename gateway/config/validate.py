"""From a tree of plain data to a `Document`, or to every fault of it with its place in the file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from gateway.config.document import Document
from gateway.config.explain import KEY, explain, holds, locate, worth_saying
from gateway.config.faults import Fault, KeyPath, render_path
from gateway.config.prune import Pruned
from gateway.config.references import Finding, Names, faults_of, names_in
from gateway.config.yaml_text import Tree

_MOST_ROUNDS: Final = 20
_SHORTEST_SECRET: Final = 4


def validate(tree: Tree) -> tuple[Document | None, list[Fault]]:
    """The document, or None and why.

    What is wrong is cut out and the rest examined again, so that one fault hides no other.
    """
    if not isinstance(tree.data, dict):
        message = "the file is not a mapping of keys to values; write 'listen: ...'"
        return None, [Fault(*tree.place(()), "", message)]
    pruned = Pruned(copy.deepcopy(tree.data))
    faults: list[Fault] = []
    for _ in range(_MOST_ROUNDS):
        try:
            document = Document.model_validate(pruned.data, context={"file": True})
        except ValidationError as error:
            faults += [fault_at(tree, finding) for finding in _structural(pruned, error)]
        else:
            faults += [fault_at(tree, finding) for finding in _between(tree.data, pruned, document)]
            return (None if faults else document), faults
    return None, faults


def fault_at(tree: Tree, finding: Finding) -> Fault:
    """``finding`` with its line, and without values that came from the environment: they may be secrets."""
    path, message, hint = finding.path, finding.message, finding.hint
    value = _value_at(tree.data, path)
    # A section begins a line after its key, which is the better place to point at.
    line, column = tree.place(path, key=finding.of_key or isinstance(value, dict | list))
    if path in tree.secrets:
        # Whatever found it may quote the value, or a part of it, in any form.
        message, hint = f"the value of ${{{tree.secrets[path]}}} is not valid for this key", ""
    return Fault(line, column, render_path(path), _scrubbed(tree, message), _scrubbed(tree, hint))


def _structural(pruned: Pruned, error: ValidationError) -> list[Finding]:
    """What pydantic found, which is cut out of ``pruned``."""
    findings: list[Finding] = []
    cut: set[tuple[KeyPath, str]] = set()
    for detail in worth_saying(error):
        kind = detail["type"]
        path = locate(detail["loc"], pruned.data, missing=kind == "missing")
        whole = pruned.original(path)
        if not pruned.explains(whole):
            of_key = kind == "extra_forbidden" or detail["loc"][-1] == KEY
            findings.append(Finding(whole, *explain(detail), of_key=of_key))
        cut.add((path, kind))
    # From the back, so that places in lists stay right.
    for path, kind in sorted(cut, key=lambda item: _order(item[0]), reverse=True):
        pruned.cut(path, missing=kind == "missing", harmless=kind == "extra_forbidden")
    return findings


def _order(path: KeyPath) -> list[str]:
    return [str(part).rjust(9) if isinstance(part, int) else part for part in path]


def _between(data: Any, pruned: Pruned, document: Document) -> list[Finding]:
    """What sections say about one another, but for what only comes of the cuts."""
    names = _names(data)
    findings = [
        replace(finding, path=pruned.original(finding.path)) for finding in faults_of(document, names)
    ]
    findings = [finding for finding in findings if not pruned.explains(finding.path)]
    for route in pruned.without_policy:
        policy = data["routes"][route].get("policy")
        if isinstance(policy, dict):
            findings += names_in(policy, ("routes", route, "policy"), names, names.variants[route])
    return findings


def _names(data: Mapping[str, Any]) -> Names:
    def keys(section: object, key: str) -> tuple[str, ...]:
        found = section.get(key) if isinstance(section, dict) else None
        return tuple(found) if isinstance(found, dict) else ()

    routes = {name: keys(data["routes"][name], "variants") for name in keys(data, "routes")}
    return Names(keys(data, "backends"), keys(data, "metrics"), routes)


def _scrubbed(tree: Tree, message: str) -> str:
    """``message`` of a section, or of another key, without values from the environment that it quotes."""
    for path, variable in tree.secrets.items():
        value = _value_at(tree.data, path)
        # A short value is not a secret, and would occur inside other words.
        if isinstance(value, str) and len(value) >= _SHORTEST_SECRET and value in message:
            name = f"the value of ${{{variable}}}"
            message = message.replace(repr(value), name).replace(value, name)
    return message


def _value_at(data: Any, path: KeyPath) -> object:
    for part in path:
        if not holds(data, part):
            return None
        data = data[part]
    return data
