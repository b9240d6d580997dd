"""``turnout explain``: which variant a unit gets, with what probability, and why."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from gateway.commands.remote import complain, print_json
from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.load import load_file
from gateway.config.plans import plan
from gateway.state import open_store
from gateway.state.base import Published, StoreUnavailable
from policies.allocate import allocate
from policies.assign import point, unit_hash
from policies.model import Allocation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--route", required=True, metavar="R")
    parser.add_argument("--unit", metavar="U", help="the value of the route's unit (a user id, say)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(arguments: argparse.Namespace) -> int:
    try:
        document = load_file(arguments.config)
        if arguments.route not in document.routes:
            known = ", ".join(document.routes) or "none"
            raise ValueError(f"there is no route {arguments.route!r}; known: {known}")
        published = asyncio.run(_published(document)) if _exists(document.store) else {}
        found = _explained(document, arguments.route, arguments.unit, published)
    except (ConfigError, ValueError) as error:
        return complain(error)
    if arguments.json:
        print_json(found)
    else:
        sys.stdout.write("\n".join(found["why"]) + "\n")
    return 0


def _exists(store: str) -> bool:
    """Looking must not make an empty database where none is."""
    return not store.startswith("sqlite:///") or Path(store.removeprefix("sqlite:///")).exists()


async def _published(document: Document) -> dict[str, Published]:
    """What the gateway has published."""
    store = open_store(document.store)
    try:
        await store.open()
        try:
            return await store.published()
        finally:
            await store.close()
    except StoreUnavailable as error:
        raise ValueError(str(error)) from error


def _explained(
    document: Document, name: str, unit: str | None, published: dict[str, Published]
) -> dict[str, Any]:
    wanted = plan(document, name)
    stored = published.get(name)
    allocation = allocate(wanted)
    epoch, reason = 0, "nothing was published yet, so this is how the policy begins"
    if stored is not None and set(stored.probabilities) == set(allocation.variants):
        allocation = Allocation(
            tuple(stored.probabilities), tuple(stored.probabilities.values()), stored.bounds, stored.owners
        )
        epoch, reason = stored.epoch, f"epoch {stored.epoch}, published because of: {stored.reason}"
    route = document.routes[name]
    why = [
        f"route {name}: policy {route.policy.type} ({reason})",
        "shares: " + ", ".join(f"{v} {p:.4%}" for v, p in allocation.as_dict().items()),
    ]
    variant = None
    u = None
    if unit is None:
        why.append("no unit was given: each request draws for itself with these shares")
    else:
        if route.unit is None:
            why.append(
                "the route has no 'unit', so the gateway would not look at it and draw for each request"
            )
        u = point(unit_hash(name.encode(), unit.encode()))
        variant = allocation.variants[allocation.pick(u)]
        low, high = _range(allocation, u)
        why.append(f"unit {unit!r} hashes to {u:.6f}, which lies in [{low:.6f}, {high:.6f}): {variant}")
        why.append(f"probability of {variant}: {allocation.probability(variant):.6g}")
    return {
        "route": name,
        "policy": route.policy.type,
        "epoch": epoch,
        "allocation": allocation.as_dict(),
        "unit": unit,
        "point": u,
        "variant": variant,
        "probability": allocation.probability(variant) if variant is not None else None,
        "why": why,
    }


def _range(allocation: Allocation, u: float) -> tuple[float, float]:
    """The segment of [0, 1) that holds ``u``."""
    low = 0.0
    for high in allocation.bounds:
        if u < high:
            return low, high
        low = high
    return low, 1.0
