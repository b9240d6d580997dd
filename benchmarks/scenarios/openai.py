"""The OpenAI shape: a chat completion through a proxy that knows models by name."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import traffic
from benchmarks.bench import Options, bench
from benchmarks.peers import PEERS, turnout
from benchmarks.peers.litellm import LITELLM, install
from benchmarks.result import Result
from benchmarks.scenarios.closed import COLUMNS, concurrencies

CONCURRENCY = (1, 32)


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
        labels = {name: peer.label for name, peer in chosen.items()}
        sections = concurrencies(made, requests, CONCURRENCY, COLUMNS[:4], labels)
        return Result("openai", ours, sections, made.missing, {"litellm": LITELLM.version()})
