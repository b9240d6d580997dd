"""The nodes of engines: what each has accepted, and when it last polled. Replicas share it in the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.state.store import DocumentStore

Json = dict[str, Any]

KIND: Final = "engine"
"""Kind of the documents that hold what replicas know, one for each engine."""
SILENT_S: Final = 45.0
"""A node that has not polled for this long is silent: three times the longest poll."""
FORGOTTEN_S: Final = 86_400.0
"""A node that has been silent for this long is no longer listed."""


@dataclass(slots=True)
class NodeState:
    """What is known of one node."""

    seen: float = 0.0
    """When it last polled, in seconds since the epoch."""
    epochs: dict[str, int] = field(default_factory=dict)
    """By route: the epoch that it has accepted."""
    refused: str = ""
    """Why it refused the newest configuration; empty if it did not."""
    rows: int = 0
    """Outcomes that this process received from it."""
    clusters: str = ""
    """Version of the clusters that it has; empty if it fetches them from another replica."""
    offered: dict[str, str] = field(default_factory=dict)
    """By kind: the version that was sent last."""

    def state(self, newest: Mapping[str, int], now: float) -> str:
        """accepted | behind | refused | silent"""
        if now - self.seen > SILENT_S:
            return "silent"
        if self.refused:
            return "refused"
        return "accepted" if self.epochs == newest else "behind"


class Nodes:
    """The nodes of all engines that this process or another replica knows."""

    def __init__(self) -> None:
        self._own: dict[str, dict[str, NodeState]] = {}
        """By engine and name: those that have polled this process."""
        self._shared: dict[str, dict[str, NodeState]] = {}

    def own(self, engine: str, node: str) -> NodeState:
        """The state of a node that polls this process."""
        return self._own.setdefault(engine, {}).setdefault(node, NodeState())

    def of(self, engine: str) -> dict[str, NodeState]:
        """All nodes of an engine by name, each as the replica knows it that it polled last."""
        found = dict(self._shared.get(engine, {}))
        for name, node in self._own.get(engine, {}).items():
            if name not in found or found[name].seen <= node.seen:
                found[name] = node
        return dict(sorted(found.items()))

    async def share(self, store: DocumentStore, engines: Iterator[str], now: float) -> None:
        """Exchange what is known with the other replicas. Raises StoreUnavailable."""
        for engine in engines:
            stored = await store.load(KIND, engine)
            self._shared[engine] = _read(stored[1] if stored is not None else "{}", now)
            text = _written(self.of(engine))
            if self._own.get(engine) and (stored is None or text != stored[1]):
                await store.save(KIND, engine, text, expected=stored[0] if stored is not None else 0)


def _read(text: str, now: float) -> dict[str, NodeState]:
    nodes = {name: NodeState(**fields) for name, fields in json.loads(text).items()}
    return {name: node for name, node in nodes.items() if now - node.seen < FORGOTTEN_S}


def _written(nodes: Mapping[str, NodeState]) -> str:
    return json.dumps(
        {name: {"seen": n.seen, "epochs": n.epochs, "refused": n.refused} for name, n in nodes.items()}
    )
