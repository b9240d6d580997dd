"""Peers in several kinds, such as with each kind of shadow: at a fixed rate first, then in a closed loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Options, bench
from benchmarks.peers import Peer
from benchmarks.result import Column, Result, Section

Maker = tuple[str, Callable[..., Peer], str, str]
"""Label, what makes the peer, its template without what is measured, and the one with it."""
CONNECTIONS = 32


def measured(
    scenario: str,
    options: Options,
    makers: Mapping[str, Maker],
    kinds: Mapping[str, tuple[str, Mapping[str, str] | None]],
    requests: Callable[[Bench], Path],
    rate: float,
    columns: tuple[Sequence[Column], Sequence[Column]],
) -> Result:
    """Measures the peers of ``options`` that are among ``makers``.

    Args:
        kinds: By name, the label and the names of the template; None: without what is measured.
        requests: Writes the file of requests.
        rate: Requests per second of the first table.
        columns: Those of each table.
    """
    peers = {}
    for name in [name for name in options.peers if name in makers]:
        label, make, without, beside = makers[name]
        for kind, (word, extra) in kinds.items():
            template = without if extra is None else beside
            peers[f"{name}-{kind}"] = make(f"{name}-{kind}", f"{label}, {word}", template, extra or {})
    with bench(replace(options, peers=tuple(peers)), peers=peers) as made:
        file, labels = requests(made), {name: peer.label for name, peer in peers.items()}
        fixed = made.series(lambda name: made.fixed(made.running[name], file, rate), "fixed rate")
        closed = made.series(partial(made.closed, requests=file, connections=CONNECTIONS), "closed loop")
        sections = [
            Section(f"{rate:g} requests a second", columns[0], fixed, labels=labels),
            Section(f"Closed loop, concurrency {CONNECTIONS}", columns[1], closed, labels=labels),
        ]
        return Result(scenario, options, sections, made.missing)
