"""``turnout explain``: which variant a unit gets, with what probability, and why."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from gateway.commands import stores
from gateway.commands.documents import add_config, chosen_route
from gateway.commands.output import add_json, complain, print_json, say
from gateway.compile.ensembles import Drawn, expected, restore
from gateway.compile.plans import plan, unit_point
from gateway.config.document import Document
from gateway.config.load import load_file
from gateway.config.policy import CanaryConfig
from gateway.state import open_store
from gateway.state.base import Published
from policies.allocate import Plan, allocate
from policies.allocation.model import Allocation
from policies.contextual.bandit import Contextual
from policies.contextual.features import Scalar, columns, encode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--route", metavar="R", help="route to explain (default: the only route)")
    parser.add_argument("--unit", metavar="U", help="value of the route's unit, for example a user id")
    parser.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a declared feature; features that are absent count as missing",
    )
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    try:
        document = load_file(arguments.config)
        route = chosen_route(document, arguments.route)
        stored, packed = None, None
        store = stores.of_file(document.store, arguments.config)
        absent = stores.missing(store)
        if not absent:
            stored, packed = asyncio.run(_published(store, route))
        found = _explained(document, route, arguments.unit, stored, packed, arguments.feature)
        looked = f"store: {stores.shown(store)}" + (" (there is no such file yet)" if absent else "")
        found = {**found, "why": [looked, *found["why"]]}
    except stores.FAILURES as error:
        return complain(error)
    if arguments.json:
        print_json(found)
    else:
        say("\n".join(found["why"]))
    return 0


async def _published(url: str, route: str) -> tuple[Published | None, bytes | None]:
    """What the gateway has published for the route, and the ensemble with it."""
    store = open_store(url)
    await store.open()
    try:
        stored = (await store.published()).get(route)
        if stored is None or not expected(stored.evidence):
            return stored, None
        return stored, await store.ensemble(route, stored.epoch)
    finally:
        await store.close()


def _explained(
    document: Document,
    name: str,
    unit: str | None,
    stored: Published | None,
    packed: bytes | None,
    given: list[str],
) -> dict[str, Any]:
    wanted = plan(document, name)
    allocation = allocate(wanted)
    epoch, reason = 0, "nothing was published yet, so this is how the policy begins"
    if stored is not None and set(stored.probabilities) == set(allocation.variants):
        allocation = Allocation(
            tuple(stored.probabilities), tuple(stored.probabilities.values()), stored.bounds, stored.owners
        )
        epoch, reason = stored.epoch, f"epoch {stored.epoch}, published because of: {stored.reason}"
    route = document.routes[name]
    if route.engine is not None and unit is not None:
        raise ValueError(
            f"the route is served by the engine {route.engine!r}, whose nodes hash units in their own way; "
            "leave --unit out, or send a request with the unit to a node"
        )
    why = [
        f"route {name}: policy {route.policy.type} ({reason})",
        "shares: " + ", ".join(f"{v} {p:.4%}" for v, p in allocation.as_dict().items()),
    ]
    whole = allocation
    features = _features(wanted, given)
    if isinstance(wanted, Contextual):
        drawn = restore(wanted, packed) if packed is not None else None
        allocation, said = _for_features(wanted, drawn, allocation, features or {})
        why += said
    variant = None
    u = None
    if not unit:  # as for the gateway
        why.append("no unit was given: each request draws for itself with these shares")
    else:
        if route.unit is None:
            why.append(
                "the route has no 'unit': the gateway draws for each request; with one it would assign as follows"
            )
        u = unit_point(document, name, unit.encode())
        if isinstance(route.policy, CanaryConfig):
            why.append(
                f"the rollout from {route.policy.baseline} to {route.policy.candidate} decides which units come "
                "first: another rollout begins with others"
            )
        variant = allocation.variants[allocation.pick(u)]
        low, high = _range(allocation, u)
        why.append(f"unit {unit!r} hashes to {u:.6f}, which lies in [{low:.6f}, {high:.6f}): {variant}")
        why.append(f"probability of {variant}: {allocation.probability(variant):.6g}")
    return {
        "route": name,
        "policy": route.policy.type,
        "epoch": epoch,
        "allocation": whole.as_dict(),
        "features": features,
        "shares": allocation.as_dict(),
        "unit": unit,
        "point": u,
        "variant": variant,
        "probability": allocation.probability(variant) if variant is not None else None,
        "why": why,
    }


def _features(wanted: Plan, given: list[str]) -> dict[str, str | float | None] | None:
    """What each declared feature is read as; None for a policy without. Raises ValueError."""
    if not isinstance(wanted, Contextual):
        if given:
            raise ValueError("the route's policy looks at no features; leave --feature out")
        return None
    declared = {feature.name: feature for feature in wanted.features}
    said: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or key not in declared:
            raise ValueError(
                f"{one!r} is not NAME=VALUE of a declared feature; write one of {', '.join(declared)}"
            )
        said[key] = value
    return {name: feature.read(said.get(name)) for name, feature in declared.items()}


def _for_features(
    wanted: Contextual, drawn: Drawn | None, even: Allocation, features: Mapping[str, Scalar]
) -> tuple[Allocation, list[str]]:
    """The shares of such a request, laid out as the gateway does, and where they come from."""
    row = encode(wanted.features, features)
    shown = ", ".join(f"{name} {'missing' if v is None else v}" for name, v in features.items())
    why = [f"features: {shown}", "row: " + ", ".join(map(_column, columns(wanted.features), row))]
    if drawn is None:
        return even, [*why, "nothing was learned about these features yet: the shares are the same for all"]
    each = dict(zip(wanted.variants, drawn.ensemble.shares(row), strict=True))
    shares = {name: share for name, share in each.items() if share}
    bounds = [*[*accumulate(shares.values())][:-1], 1.0]
    rewards = sum(drawn.rewards.values())
    why.append(
        f"shares for this row, from {wanted.draws} draws after {rewards:.6g} rewards: "
        + ", ".join(f"{v} {p:.4%}" for v, p in shares.items())
    )
    made = Allocation(tuple(shares), tuple(shares.values()), tuple(bounds), tuple(range(len(shares))))
    return made, why


def _column(name: str, value: float) -> str:
    return f"{name} {value:.4g}"


def _range(allocation: Allocation, u: float) -> tuple[float, float]:
    """The segment of [0, 1) that holds ``u``."""
    low = 0.0
    for high in allocation.bounds:
        if u < high:
            return low, high
        low = high
    return low, 1.0
