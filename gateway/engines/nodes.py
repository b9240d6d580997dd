"""The nodes of engines: what each has accepted, which rows it lost, and when it last polled.

Replicas share it in the store. A node may poll one replica and report to another, so each part has its own time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final

from gateway.state import shapes
from gateway.state.base import of_stored
from gateway.state.store import DocumentStore

KIND: Final = shapes.kind(
    "engine",
    {
        str: {
            "seen?": float,
            "epochs?": {str: int},
            "refused?": str,
            "fetched?": float,
            "unfit?": str,
            "counted?": float,
            "delivered?": int,
            "lost?": int,
            "recent?": [[float]],
            "skewed?": float,
            "skew?": float,
        }
    },
)
"""Kind of the documents that hold what replicas know, one for each engine."""
SILENT_S: Final = 45.0
"""A node that has not polled for this long is silent: three times the longest poll."""
LOSS_WINDOW_S: Final = 300.0
"""Rows lost in this time count as recent."""
MAX_NODES: Final = 1000
"""Nodes of an engine that are remembered, those heard last: the holder of its token chooses their names."""
_LOSS_STEP_S: Final = 30.0
"""Resolution of the window."""


@dataclass(slots=True)
class NodeState:
    """What is known of one node."""

    seen: float = 0.0
    """When it last polled for routes, in seconds since the epoch."""
    epochs: dict[str, int] = field(default_factory=dict)
    """By route: the epoch that it has accepted."""
    refused: str = ""
    """Why it refused the newest routes; empty if it did not."""
    fetched: float = 0.0
    """When it last polled for clusters, in seconds since the epoch."""
    unfit: str = ""
    """Why it refused the newest clusters; empty if it did not."""
    rows: int = 0
    """Outcomes that this process received from it."""
    clusters: str = ""
    """Version of the clusters that it has; empty if it fetches them from another replica."""
    offered: dict[str, str] = field(default_factory=dict)
    """By kind: the version that was sent last."""
    sent: dict[str, float] = field(default_factory=dict)
    """By kind: when that was, in seconds since the epoch."""
    counted: float = 0.0
    """When it last reported its counters, in seconds since the epoch."""
    delivered: int = 0
    """Rows that a gateway accepted since the node's start, as it counts them itself."""
    lost: int = 0
    """Rows that no gateway accepted since the node's start, as it counts them itself."""
    recent: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, delivered, lost) of each step of the last `LOSS_WINDOW_S`."""
    skewed: float = 0.0
    """When rows were last refused because its clock is wrong, in seconds since the epoch."""
    skew: float = 0.0
    """Seconds by which its clock was ahead then; negative if it was behind."""

    @property
    def why_refused(self) -> str:
        """Why it refused what it was offered; empty if it did not."""
        return "; ".join(text for text in (self.refused, self.unfit) if text)

    def state(self, newest: Mapping[str, int], now: float) -> str:
        """accepted | behind | refused | silent"""
        if now - self.seen > SILENT_S:
            return "silent"
        if self.why_refused:
            return "refused"
        return "accepted" if self.epochs == newest else "behind"

    def waited_for(self, route: str, epoch: int) -> bool:
        """Whether it serves the route by an older epoch. A node that has accepted nothing yet serves nothing."""
        return bool(self.epochs or self.refused) and self.epochs.get(route, -1) < epoch

    def count(self, delivered: int, lost: int, now: float, before: NodeState | None) -> None:
        """Take counters that begin at zero with the node. ``before``: as any replica knew it; None: not at all."""
        last = (0, 0) if before is None else (before.delivered, before.lost)
        if before is None or not before.counted:
            last = delivered, lost  # when they were lost is unknown
        elif delivered < last[0] or lost < last[1]:
            last = 0, 0  # it has restarted
        recent = [step for step in (before.recent if before is not None else ()) if _is_recent(step[0], now)]
        step = now // _LOSS_STEP_S * _LOSS_STEP_S, delivered - last[0], lost - last[1]
        if recent and recent[-1][0] == step[0]:
            step = step[0], step[1] + recent[-1][1], step[2] + recent.pop()[2]
        self.delivered, self.lost, self.counted, self.recent = delivered, lost, now, [*recent, step]

    def clock_skew(self, now: float) -> float | None:
        """`skew`, if rows were refused for it in the last `LOSS_WINDOW_S`."""
        return self.skew if _is_recent(self.skewed, now) else None

    def losses(self, now: float) -> tuple[int, int]:
        """Rows delivered and lost of the last `LOSS_WINDOW_S`."""
        recent = [step for step in self.recent if _is_recent(step[0], now)]
        return sum(step[1] for step in recent), sum(step[2] for step in recent)


def _is_recent(time: float, now: float) -> bool:
    return now - time <= LOSS_WINDOW_S


class Nodes:
    """The nodes of all engines that this process or another replica knows."""

    def __init__(self) -> None:
        self._own: dict[str, dict[str, NodeState]] = {}
        """By engine and name: those that have polled this process."""
        self._shared: dict[str, dict[str, NodeState]] = {}

    def own(self, engine: str, node: str) -> NodeState:
        """The state of a node that polls or reports to this process."""
        known = self._own.setdefault(engine, {})
        if node not in known:
            shared = self._shared.get(engine, {}).get(node)
            # A copy: what this process hears must not change what the others said.
            known[node] = NodeState() if shared is None else replace(shared)
        return known[node]

    def of(self, engine: str) -> dict[str, NodeState]:
        """All nodes of an engine by name, each part as the replica knows it that heard of it last."""
        found = dict(self._shared.get(engine, {}))
        for name, node in self._own.get(engine, {}).items():
            found[name] = _merged(node, found.get(name))
        return dict(sorted(found.items()))

    def count(self, engine: str, node: str, delivered: int, lost: int, now: float) -> None:
        """Take the counters of a node; ignored until `share` has read what was known of it, since it reports again."""
        if engine not in self._shared:
            return
        before = self.of(engine).get(node)
        self.own(engine, node).count(delivered, lost, now, before)

    async def share(self, store: DocumentStore, forget: Iterable[tuple[str, float]], now: float) -> None:
        """Exchange what is known with the other replicas. Raises StoreUnavailable.

        ``forget``: each engine, and the seconds after which its silent nodes are dropped.
        """
        for engine, seconds in forget:
            stored = await store.load(KIND, engine)
            self._shared[engine] = _read(stored[1] if stored is not None else "{}")
            for known in (self._shared[engine], self._own.get(engine, {})):
                newest = sorted(known, key=lambda name: _last(known[name]), reverse=True)
                for place, name in enumerate(newest):
                    if place >= MAX_NODES or _last(known[name]) < now - seconds:
                        del known[name]
            text = _written(self.of(engine))
            if self._own.get(engine) and (stored is None or text != stored[1]):
                # If another replica was faster, the next exchange takes in what it wrote.
                await store.save(KIND, engine, text, expected=stored[0] if stored is not None else 0)


def _last(node: NodeState) -> float:
    return max(node.seen, node.counted, node.skewed)


def _merged(own: NodeState, shared: NodeState | None) -> NodeState:
    if shared is None:
        return own
    latest = {part: max(own, shared, key=attrgetter(part[0])) for part in _PARTS}
    return replace(own, **{name: getattr(node, name) for part, node in latest.items() for name in part})


_PARTS: Final = (
    ("seen", "epochs", "refused"),
    ("fetched", "unfit"),
    ("counted", "delivered", "lost", "recent"),
    ("skewed", "skew"),
)
"""What a node tells at one time, first the time: it may tell each replica another part."""


def _read(text: str) -> dict[str, NodeState]:
    return {name: of_stored(NodeState, fields) for name, fields in json.loads(text).items()}


def _written(nodes: Mapping[str, NodeState]) -> str:
    names = [name for part in _PARTS for name in part]
    return json.dumps({node: {name: getattr(state, name) for name in names} for node, state in nodes.items()})


def named(nodes: Iterator[tuple[str, str]]) -> str:
    """Nodes with what is said of each: ``e1 (silent), e2``."""
    return ", ".join(f"{name} ({said})" if said else name for name, said in nodes)
