"""What the nodes of each engine are offered, and which of it they have taken.

Any replica serves any node: what is offered follows from the configuration and the published allocations. A node
polls; the poll is held until there is something new (long polling), so a change reaches all nodes within milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from gateway.clock import Clock
from gateway.config.document import Document
from gateway.config.engine import admits
from gateway.config.kubernetes import KubernetesConfig
from gateway.engines.envoy.offers import EnvoyOffers
from gateway.engines.haproxy.offers import HaproxyOffers
from gateway.engines.kubernetes.clusters import Clusters
from gateway.engines.kubernetes.writer import NODE
from gateway.engines.nodes import LOSS_WINDOW_S, Nodes, NodeState, named
from gateway.engines.offers import InEffect, Json, Kind, Offer, Offers, is_newer
from gateway.engines.rows import rows
from gateway.errors import TurnoutError
from gateway.json_text import compact
from gateway.record.decision_id import Sealer
from gateway.record.events import Batch
from gateway.state.store import DocumentStore

HOLD_S: Final = 15.0
"""How long a poll is held if nothing changes."""
RETRY_S: Final = 2.0
"""How long a poll is held that refuses what was offered: it is offered again."""
AGAIN_S: Final = 1.0
"""A node that has nothing and polls again this soon could not read what it was sent: a restart takes longer."""
CLUSTERS_FIRST_S: Final = 5.0
"""How long new routes wait until the node has fetched the clusters that they may name."""
CANNOT_SEAL: Final = "its bootstrap cannot seal decision ids; print it again and restart the node with it"
MAX_VERSIONS: Final = 256
"""Versions whose epochs are remembered, for what nodes say they have."""


@dataclass(frozen=True, slots=True)
class Poll:
    """What a node says when it asks."""

    engine: str
    node: str
    kind: Kind
    version: str
    """What it has; empty at its start."""
    refused: str = ""
    """Why it did not take what was offered last."""
    seals: bool = True
    """Whether its bootstrap can seal decision ids, if it is an Envoy."""


class Fleet:
    """Offers and nodes of all engines, in one process."""

    def __init__(
        self,
        *,
        document: Callable[[], Document],
        revision: Callable[[], int],
        published: Callable[[], Mapping[str, InEffect]],
        sealer: Sealer,
        record: Callable[[Batch], None],
        clock: Clock,
    ) -> None:
        self._document = document
        self._revision = revision
        self._published = published
        self._sealer = sealer
        self._record = record
        self._clock = clock
        self._changed = asyncio.Event()
        self._offers: dict[tuple[str, Kind], tuple[Document, Mapping[str, InEffect], Offer]] = {}
        """With the document and the publications that each was made from."""
        self._makers: Mapping[str, Offers] = {
            "envoy": EnvoyOffers(sealer),
            "haproxy": HaproxyOffers(sealer),
        }
        """By type of engine."""
        self._versions: OrderedDict[str, Mapping[str, int]] = OrderedDict()
        self.nodes = Nodes()
        self._kubernetes = Clusters(document, revision, clock)

    def engine_of(self, token: str) -> str | None:
        """The engine whose token this is."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        for name, engine in self._document().engines.items():
            # Of digests: how long the comparison takes tells nothing about the token.
            if hashlib.sha256(engine.token.encode()).digest() == digest:
                return name
        return None

    def admits(self, engine: str, node: str) -> bool:
        """Whether a node of this name belongs to the engine."""
        section = self._document().engines.get(engine)
        return section is not None and admits(section.nodes, node)

    def admit(self, engine: str, node: str) -> None:
        """Raise TurnoutError (forbidden) unless `admits`."""
        if not self.admits(engine, node):
            raise TurnoutError(
                "forbidden", f"The engine {engine!r} has no node {node!r}; name it under 'nodes'."
            )

    def wake(self) -> None:
        """Tell every held poll that something may have changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def poll(self, poll: Poll, closing: asyncio.Event) -> Offer:
        """What to send, held while the node has the newest.

        Raises TurnoutError (forbidden), also if an edit takes the node or its engine away or changes its type
        meanwhile; OSError if a CA cannot be read.
        """
        self._admit(poll)
        poll = self._explained(poll)
        node = self._heard(poll)
        began = self._clock()
        while True:
            self._admit(poll)  # an edit may have come
            began = min(began, self._clock())  # of a clock that was set back, it would be held for as long
            deadline = began + (RETRY_S if poll.refused else HOLD_S)
            if poll.kind == "routes" and not poll.seals and self._must_seal(poll.engine):
                return await self._withhold(replace(poll, refused=CANNOT_SEAL), closing)
            changed, offer = self._changed, self.offer(poll.engine, poll.kind)
            due = min(deadline, self._due(node, poll, offer, began))
            wait = due - self._clock()
            if wait <= 0 or closing.is_set():
                node.offered[poll.kind] = offer.version
                node.sent[poll.kind] = self._clock()
                return offer
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await changed.wait()
            if poll.kind == "routes":
                node.seen = self._clock()

    def _admit(self, poll: Poll) -> None:
        """`admit`, and refuse an Envoy whose engine has become one of HAProxy.

        Without clusters in the response, an Envoy would remove those it serves by.
        """
        self.admit(poll.engine, poll.node)
        if poll.kind == "clusters" and self._document().engines[poll.engine].type == "haproxy":
            raise TurnoutError(
                "forbidden",
                f"The engine {poll.engine!r} is of type 'haproxy', which has no clusters; print its bootstrap again.",
            )

    def _explained(self, poll: Poll) -> Poll:
        """The poll; a refusal if the node asks again without what it was sent, as an Envoy that cannot read it."""
        node = self.nodes.own(poll.engine, poll.node)
        if poll.version:
            unread = is_newer(node.offered.get(poll.kind, ""), poll.version)
        else:
            # From 0 on: a clock that was set back says nothing.
            unread = 0.0 <= self._clock() - node.sent.get(poll.kind, -inf) < AGAIN_S
        if poll.refused or not unread:
            return poll
        return replace(poll, refused=f"it could not read the newest {poll.kind}; its log says why")

    def _must_seal(self, engine: str) -> bool:
        """Whether nodes need a bootstrap that can seal ids; HAProxy seals by what it fetches."""
        section = self._document().engines[engine]
        return section.type == "envoy" and section.ids == "sealed"

    async def _withhold(self, poll: Poll, closing: asyncio.Event) -> Offer:
        """Nothing, under the version that the node has, so that it keeps what it serves."""
        self._heard(poll)
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await closing.wait()
        return Offer(poll.version, compact({"version_info": poll.version, "resources": []}), {})

    def _due(self, node: NodeState, poll: Poll, offer: Offer, began: float) -> float:
        """When to send ``offer``, which the node may have or have refused."""
        # What it refused waits for the deadline: it would only refuse it again.
        refused = node.offered.get(poll.kind) if poll.refused else None
        if offer.version in (poll.version, refused):
            return inf
        if poll.version and not poll.refused and not is_newer(offer.version, poll.version):
            return began + HOLD_S  # another replica knows more than this one, or words it differently
        if (
            poll.kind == "routes"
            and not node.unfit
            and node.clusters not in ("", self._clusters(poll.engine))
        ):
            return began + CLUSTERS_FIRST_S
        return began

    def _clusters(self, engine: str) -> str:
        """The newest version of the clusters."""
        return self.offer(engine, "clusters").version

    def _heard(self, poll: Poll) -> NodeState:
        node = self.nodes.own(poll.engine, poll.node)
        if poll.kind == "clusters":
            news = (node.clusters, node.unfit) != (poll.version, poll.refused)
            node.clusters, node.unfit, node.fetched = poll.version, poll.refused, self._clock()
            if news:
                self.wake()  # routes that waited for it
        if poll.kind == "routes":
            node.seen = self._clock()
            node.refused = poll.refused
            node.epochs = dict(self._versions.get(poll.version, node.epochs))
        return node

    # Reports --------------------------------------------------------------------------------------------
    async def receive(self, engine: str, body: bytes) -> tuple[int, int]:
        """Record the rows of an export; how many were accepted and refused. Raises ValueError."""
        document = self._document()
        section = document.engines.get(engine)
        if isinstance(section, KubernetesConfig):
            found = await self._kubernetes.rows(engine, section, body, self._published)
        else:
            found = await asyncio.to_thread(
                rows, body, engine, document, self._revision(), self._sealer.open_stamp, self._clock()
            )
        self._record(found.outcomes)
        node = NODE if isinstance(section, KubernetesConfig) else found.node
        # The holder of the token chooses the names in rows: invented ones must not fill the list of nodes.
        if self.admits(engine, node) or node in self.nodes.of(engine):
            known = self.nodes.own(engine, node)
            known.rows += len(found.outcomes)
            if found.skew:
                known.skew, known.skewed = found.skew, self._clock()
        return len(found.outcomes), found.refused

    def count(self, engine: str, node: str, delivered: int, lost: int) -> None:
        """Take a node's own counters of its rows; they begin at zero with the node."""
        self.nodes.count(engine, node, delivered, lost, self._clock())

    def shown(self, engine: str) -> Json:
        """What is known of an engine and its nodes, as the API shows it."""
        newest, now, nodes = self._newest(engine), self._clock(), self.nodes.of(engine)
        delivered, lost = self._recent(engine)
        return {
            "epochs": newest,
            "lost_share": lost / (delivered + lost) if delivered + lost else None,
            "nodes": [
                {
                    "node": name,
                    "state": node.state(newest, now),
                    "seen": node.seen,
                    "epochs": node.epochs,
                    "behind": [route for route, epoch in newest.items() if node.waited_for(route, epoch)],
                    "refused": node.why_refused,
                    "rows": node.rows,
                    "delivered": node.delivered,
                    "lost": node.lost,
                    "clock_skew": node.clock_skew(now),
                }
                for name, node in nodes.items()
            ],
        }

    def _newest(self, engine: str) -> Mapping[str, int]:
        """By route: the newest epoch."""
        document = self._document()
        if not isinstance(document.engines[engine], KubernetesConfig):
            # Without a CA nothing can be offered; alarms and pages must still be made.
            with suppress(OSError):
                return self.offer(engine, "routes").epochs
        published = self._published()
        return {name: published[name].epoch for name in document.engine_routes(engine) if name in published}

    async def write_weights(self) -> None:
        """As the leader: bring what is published into the HTTPRoutes of clusters."""
        await self._kubernetes.step(self._published(), self.nodes)

    async def close(self) -> None:
        """Close the connections to clusters."""
        await self._kubernetes.close()

    def waits(self, route: str, epoch: int) -> str:
        """Why ``epoch`` is not in effect on the whole fleet of a route; empty if it is, or without an engine."""
        section = self._document().routes.get(route)
        if section is None or section.engine is None:
            return ""
        nodes, now = self.nodes.of(section.engine), self._clock()
        behind = [(name, node) for name, node in nodes.items() if node.waited_for(route, epoch)]
        if behind:
            which = named((name, node.state({}, now).replace("accepted", "behind")) for name, node in behind)
            return f"not yet accepted by {which} of the engine {section.engine!r}"
        if not any(node.epochs.get(route, -1) >= epoch for node in nodes.values()):
            return f"no node of the engine {section.engine!r} has accepted it yet"
        return ""

    def lost_rows(self, route: str) -> str:
        """Why the record of a route is not whole; empty if its nodes lost no more than its engine allows."""
        section = self._document().routes.get(route)
        if section is None or section.engine is None:
            return ""
        delivered, lost = self._recent(section.engine)
        limit = self._document().engines[section.engine].max_lost_rows
        if lost <= limit * (delivered + lost):
            return ""
        return (
            f"Nodes of {section.engine} lost {lost:,} of {delivered + lost:,} rows in {LOSS_WINDOW_S / 60:.0f} "
            f"minutes, more than {limit:.2%}: no gateway accepted them in time."
        )

    def _recent(self, engine: str) -> tuple[int, int]:
        """Rows that all nodes of an engine delivered and lost."""
        each = [node.losses(self._clock()) for node in self.nodes.of(engine).values()]
        return sum(delivered for delivered, _ in each), sum(lost for _, lost in each)

    async def share(self, store: DocumentStore) -> None:
        """Exchange what is known of nodes with the other replicas. Raises StoreUnavailable."""
        engines = self._document().engines.items()
        await self.nodes.share(store, ((name, engine.forget) for name, engine in engines), self._clock())

    def troubles(self) -> dict[str, str]:
        """Code of an alarm → its message, empty if all is well."""
        found: dict[str, list[str]] = {"engine_refused": [], "engine_silent": [], "engine_clock": []}
        for engine, section in self._document().engines.items():
            for node in self.shown(engine)["nodes"]:
                where = f"{node['node']} of {engine}"
                if (skew := node["clock_skew"]) is not None:
                    way = "ahead" if skew > 0 else "behind"
                    found["engine_clock"].append(f"{where} ({abs(skew):,.0f} s {way})")
                if node["state"] == "refused":
                    what = "weights" if isinstance(section, KubernetesConfig) else "configuration"
                    found["engine_refused"].append(f"{where} keeps its last {what}: {node['refused']}")
                elif node["state"] == "silent":
                    said = f" ({node['refused']})" if node["refused"] else ""
                    found["engine_silent"].append(where + said)
        silent, clocks = ", ".join(found["engine_silent"]), ", ".join(found["engine_clock"])
        return {
            "engine_refused": "; ".join(found["engine_refused"]),
            "engine_silent": f"Nodes do not follow their routes: {silent}." if silent else "",
            "engine_clock": f"Rows are refused, because the clock of the node is wrong: {clocks}."
            if clocks
            else "",
        }

    # Offers ---------------------------------------------------------------------------------------------
    def offer(self, engine: str, kind: Kind) -> Offer:
        """The newest resources of one kind; the same on every replica, and made once for each change."""
        document, published = self._document(), self._published()
        last = self._offers.get((engine, kind))
        if last is not None and last[0] is document and last[1] is published:
            return last[2]  # each change wakes all held polls, and they ask one after another
        routes = document.engine_routes(engine)
        if last is not None and not routes.keys() <= published.keys():
            return last[2]  # an edit is in force, and its allocations are published in a moment
        served = {name: published[name] for name in routes if name in published}
        epochs = {name: effect.epoch for name, effect in served.items()} if kind == "routes" else {}
        if last is not None and last[0] is document and last[2].epochs == epochs:
            self._offers[engine, kind] = document, published, last[2]
            return last[2]
        offers = self._makers[document.engines[engine].type]
        offer = offers.make(document, self._revision(), engine, kind, served)
        if kind == "routes":
            self._versions[offer.version] = epochs
            if len(self._versions) > MAX_VERSIONS:
                self._versions.popitem(last=False)
        self._offers[engine, kind] = document, published, offer
        return offer
