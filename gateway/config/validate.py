"""Validation of parsed data: a `Document`, or all of its faults with their positions in the file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from pydantic import ValidationError

from gateway.config.document import Document
from gateway.config.explain import KEY, explain, holds, locate, shown, single_errors
from gateway.config.faults import MAX_FAULTS, Fault, KeyPath, render_path
from gateway.config.prune import Pruned
from gateway.config.references import Finding, Names, faults_of, names_in
from gateway.config.yaml_text import Tree

_MAX_ROUNDS: Final = 20
_MIN_SECRET_CHARACTERS: Final = 4


def validate(tree: Tree) -> tuple[Document | None, list[Fault]]:
    """Return the document, or None and the faults.

    Faulty values are cut out and the rest is validated again, so that no fault hides another.
    """
    if not isinstance(tree.data, dict):
        message = "the file is not a mapping of keys to values; write 'listen: ...'"
        return None, [Fault(*tree.place(()), "", message)]
    pruned = Pruned(copy.deepcopy(tree.data))
    faults: list[Fault] = []
    for _ in range(_MAX_ROUNDS):
        try:
            document = Document.model_validate(pruned.data, context={"file": True})
        except ValidationError as error:
            faults += [fault_at(tree, finding) for finding in _structural(pruned, error)]
            if len(faults) >= MAX_FAULTS:
                break
        else:
            faults += [fault_at(tree, finding) for finding in _between(tree.data, pruned, document)]
            return (None if faults else document), faults
    return None, faults


def fault_at(tree: Tree, finding: Finding) -> Fault:
    """``finding`` with its position, without values from the environment, which may be secrets."""
    path, message, hint = finding.path, finding.message, finding.hint
    value = _value_at(tree.data, path)
    # A section begins in the line after its key; the key is the better position.
    line, column = tree.place(path, key=finding.of_key or isinstance(value, dict | list))
    if path in tree.secrets:
        # The message may quote the value, or a part of it, in any form.
        message, hint = f"the value of ${{{tree.secrets[path]}}} is not valid for this key", ""
    return Fault(line, column, render_path(path), _scrubbed(tree, message), _scrubbed(tree, hint))


def _structural(pruned: Pruned, error: ValidationError) -> list[Finding]:
    """Findings of pydantic; what they are about is cut out of ``pruned``."""
    findings: list[Finding] = []
    cut: set[tuple[KeyPath, str]] = set()
    for detail in islice(single_errors(error), MAX_FAULTS):
        kind = detail["type"]
        path = locate(detail["loc"], pruned.data, missing=kind == "missing")
        whole = pruned.original(path)
        if not pruned.explains(whole):
            of_key = kind == "extra_forbidden" or detail["loc"][-1] == KEY
            findings.append(Finding(whole, *explain(detail), of_key=of_key))
        cut.add((path, kind))
    # From the end, so that indices of lists stay valid.
    for path, kind in sorted(cut, key=lambda item: _order(item[0]), reverse=True):
        pruned.cut(path, missing=kind == "missing", harmless=kind == "extra_forbidden")
    return findings


def _order(path: KeyPath) -> list[str]:
    return [str(part).rjust(9) if isinstance(part, int) else part for part in path]


def _between(data: Any, pruned: Pruned, document: Document) -> list[Finding]:
    """Findings between sections, without those that only the cuts have caused."""
    names = _names(data)
    findings = [
        replace(finding, path=pruned.original(finding.path))
        for finding in islice(faults_of(document, names), MAX_FAULTS)
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

    routes = {name: data["routes"][name] for name in keys(data, "routes")}
    variants = {name: keys(route, "variants") for name, route in routes.items()}
    covariates = tuple(dict.fromkeys(name for route in routes.values() for name in keys(route, "covariates")))
    return Names(keys(data, "backends"), keys(data, "metrics"), variants, covariates, keys(data, "engines"))


def _scrubbed(tree: Tree, message: str) -> str:
    """``message`` without the values from the environment that it quotes."""
    for path, variable in tree.secrets.items():
        value = _value_at(tree.data, path)
        # A shorter value is not a secret, and may be part of other words.
        if isinstance(value, str) and len(value) >= _MIN_SECRET_CHARACTERS:
            for form in (repr(value), shown(value), value):
                message = message.replace(form, f"the value of ${{{variable}}}")
    return message


def _value_at(data: Any, path: KeyPath) -> object:
    for part in path:
        if not holds(data, part):
            return None
        data = data[part]
    return data
