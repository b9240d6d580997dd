"""What the guardrails of a bandit say of each variant: the leader looks, and every process can show it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Final

from gateway.loops.route_shapes import VERDICT
from gateway.state import shapes
from gateway.state.store import DocumentStore
from policies.rollout.guardrails import Judgement

KIND: Final = shapes.kind("guardrails", [{"variant": str, **VERDICT}])


async def keep(
    store: DocumentStore, name: str, judgements: Mapping[str, Judgement], ejected: Collection[str]
) -> None:
    """Store the verdicts of the variants that were compared, and of those ``ejected`` the last ones.

    Raises StoreUnavailable.
    """
    stored = await store.load(KIND, name)
    version, before = (0, []) if stored is None else (stored[0], json.loads(stored[1]))
    kept = [one for one in before if one["variant"] in ejected and one["variant"] not in judgements]
    kept += [
        {"variant": variant, **verdict.as_dict(), "reason": verdict.reason or judgement.sick}
        for variant, judgement in judgements.items()
        for verdict in judgement.verdicts
    ]
    if kept != before:
        await store.save(KIND, name, json.dumps(kept), expected=version)
