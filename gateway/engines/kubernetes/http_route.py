"""HTTPRoute objects of the Gateway API, version v1: what Turnout owns in them, and how it is changed.

The schema makes ``rules`` and ``backendRefs`` atomic lists, which have one owner as a whole: server-side apply cannot
own the weights in them and nothing else. So the weights are replaced one by one, at the positions and in the version of
the object that were read (JSON Patch).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any, Final

Json = dict[str, Any]

MANAGER: Final = "turnout"
"""Field manager under which the API server notes Turnout's changes."""
VARIANT: Final = "x-turnout-variant"
"""Request header whose filter marks a backendRef as a variant's, and says the variant in the log."""
APPLIED: Final = "turnout/applied"
"""Annotation with the allocation that was written last."""
PARTS: Final = 1_000_000
"""Greatest weight that the schema allows; the sum of the weights of a rule that has nothing but variants."""
MIN_PARTS: Final = 1000
"""Least sum of the variants' weights in a rule with other backendRefs, whose share must not change."""

Weights = Mapping[int, Mapping[str, int]]
"""By index of the rule: the weight of each variant."""


class UnusableError(ValueError):
    """The HTTPRoute is one whose weights Turnout must not write; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that splits requests among the variants."""

    number: int
    indices: Mapping[str, int]
    """By variant: the index of its backendRef. Those of variants that the route no longer has are here too."""
    weights: Mapping[str, int]
    """By variant, as they are."""
    total: int
    """What the variants' weights must add up to, so that the share of other backendRefs stays as it is."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What Turnout wrote last."""

    route: str
    epoch: int
    time: float
    """Seconds since the epoch."""
    weights: Weights

    def text(self) -> str:
        """The annotation's value."""
        rules = {str(rule): dict(weights) for rule, weights in self.weights.items()}
        return json.dumps({"route": self.route, "epoch": self.epoch, "time": self.time, "weights": rules})


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One HTTPRoute, as the API server returned it."""

    name: str
    version: str
    rules: tuple[Rule, ...]
    applied: Applied | None
    annotated: bool
    """Whether it has any annotation."""
    changed_by: str
    """Field manager that owns the rules."""
    changed_at: float
    """When it changed them, in seconds since the epoch; 0.0 if unknown."""
    troubles: tuple[str, ...]
    """Why a controller does not serve it."""
    accepted: bool
    """Whether every controller says that it serves this version of the rules."""

    @property
    def weights(self) -> Weights:
        """The weights in effect."""
        return {rule.number: rule.weights for rule in self.rules}

    @property
    def overwritten(self) -> bool:
        """Whether another field manager has changed the weights since Turnout wrote them."""
        return self.applied is not None and self.applied.weights != self.weights


def read(found: Json, name: str, variants: tuple[str, ...]) -> HttpRoute:
    """The HTTPRoute ``found``. Raises UnusableError."""
    metadata = found["metadata"]
    annotations = metadata.get("annotations") or {}
    manager, time = _owner(metadata.get("managedFields") or ())
    troubles = tuple(_troubles(found, metadata["generation"]))
    parents = _parents(found)
    return HttpRoute(
        name=name,
        version=metadata["resourceVersion"],
        rules=tuple(_rules(found, name, variants)),
        applied=_applied(annotations.get(APPLIED)),
        annotated=bool(annotations),
        changed_by=manager,
        changed_at=time,
        troubles=troubles,
        accepted=bool(parents) and not troubles and all(_current(p, metadata["generation"]) for p in parents),
    )


def _rules(found: Json, name: str, variants: tuple[str, ...]) -> Iterator[Rule]:
    some = False
    for number, rule in enumerate(found.get("spec", {}).get("rules") or ()):
        backends = rule.get("backendRefs") or ()
        marks = [_variant(backend) for backend in backends]
        if not set(variants).isdisjoint(marks):
            some = True
            yield _rule(rule, number, marks, f"rule {number} of {name}", variants)
    if not some:
        raise UnusableError(
            f"no backendRef of {name} is a variant's; give the backendRef of each variant a filter of the type "
            f"RequestHeaderModifier that sets {VARIANT} to the variant's name"
        )


def _rule(rule: Json, number: int, marks: list[str], where: str, variants: tuple[str, ...]) -> Rule:
    """Raises UnusableError."""
    if rule.get("sessionPersistence"):
        raise UnusableError(
            f"{where} has sessionPersistence: a rollback would not move clients with a session; remove it"
        )
    marked = [mark for mark in marks if mark]
    for variant in dict.fromkeys((*variants, *marked)):
        if marked.count(variant) != 1:
            count = "no backendRef" if variant not in marked else "several backendRefs"
            raise UnusableError(f"{where} has {count} of the variant {variant!r}; give it exactly one")
    indices = {variant: marks.index(variant) for variant in marked}
    weights = {variant: rule["backendRefs"][index].get("weight", 1) for variant, index in indices.items()}
    if len(marks) == len(marked):
        return Rule(number, indices, weights, PARTS)
    if (total := sum(weights.values())) < MIN_PARTS:
        raise UnusableError(
            f"{where} has backendRefs of other services, and the weights of its variants add up to {total}; multiply "
            f"all its weights, so that they add up to at least {MIN_PARTS}, or give the others a rule of their own"
        )
    return Rule(number, indices, weights, total)


def _variant(backend: Json) -> str:
    """The variant that a backendRef is marked as; empty if none."""
    for entry in backend.get("filters") or ():
        for header in (entry.get("requestHeaderModifier") or {}).get("set") or ():
            if header["name"].lower() == VARIANT:
                return str(header["value"])
    return ""


def _applied(text: str | None) -> Applied | None:
    try:
        found = json.loads(text or "")
        rules = {
            int(rule): {name: int(weight) for name, weight in weights.items()}
            for rule, weights in found["weights"].items()
        }
        time = float(found["time"])
        return Applied(str(found["route"]), int(found["epoch"]), time, rules) if isfinite(time) else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None  # absent, or edited by hand: as if it had never been written


def _owner(entries: Any) -> tuple[str, float]:
    """The field manager that changed the rules last, and when."""
    owners = [
        (_time(entry.get("time")), str(entry.get("manager", "")))
        for entry in entries
        if "f:rules" in (entry.get("fieldsV1") or {}).get("f:spec", {})
    ]
    time, manager = max(owners, default=(0.0, ""))
    return manager, time


def _time(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _parents(found: Json) -> list[Json]:
    return list((found.get("status") or {}).get("parents") or ())


def _current(parent: Json, generation: int) -> bool:
    """Whether the controller has accepted this version of the specification."""
    return any(
        c["type"] == "Accepted" and c["status"] == "True" and c.get("observedGeneration", 0) >= generation
        for c in parent.get("conditions") or ()
    )


def _troubles(found: Json, generation: int) -> Iterator[str]:
    for parent in _parents(found):
        for condition in parent.get("conditions") or ():
            wanted = {"Accepted": "True", "ResolvedRefs": "True", "PartiallyInvalid": "False"}
            bad = condition["status"] not in (wanted.get(condition["type"], condition["status"]), "Unknown")
            if bad and condition.get("observedGeneration", generation) >= generation:
                yield f"{parent['controllerName']}: {condition['reason']}: {condition.get('message', '')}"


# Writing ------------------------------------------------------------------------------------------------
def weights_for(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole weights that add up to ``total``. A variant with a share gets at least one part."""
    parts = {variant: max(1, round(share * total)) if share > 0.0 else 0 for variant, share in shares.items()}
    parts[max(parts, key=parts.__getitem__)] += total - sum(parts.values())
    return parts


def patch(found: HttpRoute, applied: Applied) -> list[Json]:
    """The JSON Patch that makes the weights those of ``applied``, if the object is still as it was read."""
    note = applied.text()
    operations: list[Json] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": found.version},
        {"op": "add", "path": "/metadata/annotations/" + APPLIED.replace("/", "~1"), "value": note}
        if found.annotated
        else {"op": "add", "path": "/metadata/annotations", "value": {APPLIED: note}},
    ]
    for rule in found.rules:
        for variant, index in rule.indices.items():
            path = f"/spec/rules/{rule.number}/backendRefs/{index}/weight"
            operations.append({"op": "add", "path": path, "value": applied.weights[rule.number][variant]})
    return operations
