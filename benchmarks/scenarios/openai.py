"""The OpenAI shape: a chat completion through a proxy that knows models by name."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import traffic
from benchmarks.bench import Options, bench
from benchmarks.peers import PEERS, turnout
from benchmarks.peers.litellm import LITELLM, install
from benchmarks.result import Column, Result, Section
from benchmarks.rounds import Sample, interleave

CONCURRENCY = (1, 32)

_COLUMNS = (
    Column("requests/s", "rate", 1, 0, spread=True),
    Column("p50 ms", "p50_us", 1e-3, 2),
    Column("p99 ms", "p99_us", 1e-3, 2),
    Column("CPU µs/request", "cpu_us", 1, 1, spread=True),
)


def _same(answer: bytes) -> bool:
    """LiteLLM writes the answer anew, with fields of its own."""
    return b"It is a seven." in answer


def run(options: Options) -> Result:
    """LiteLLM beside Turnout (route found by the model in the body) and Envoy (any path)."""
    install()
    chosen = {
        "direct": PEERS["direct"],
        "envoy": PEERS["envoy"],
        "litellm": LITELLM,
        "turnout": turnout("turnout", "**Turnout**, all on", "turnout_chat.yaml"),
    }
    names = tuple(name for name in chosen if name in (*options.peers, "litellm"))
    ours = replace(options, peers=names)
    with bench(ours, peers=chosen, check=(traffic.CHAT, traffic.CHAT_BODY), same=_same) as made:
        requests = made.requests(traffic.CHAT, traffic.CHAT_BODY)
        sections = []
        for connections in CONCURRENCY:

            def measure(name: str, connections: int = connections) -> Sample:
                return made.closed(name, requests, connections)

            title = f"Concurrency {connections}"
            series = interleave(made.names, options.rounds, measure, title=title, before=made.only)
            labels = {name: peer.label for name, peer in chosen.items()}
            sections.append(Section(title, _COLUMNS, series, ratio="cpu_us", labels=labels))
        return Result("openai", ours, sections, made.missing, {"litellm": LITELLM.version()})
