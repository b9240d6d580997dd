"""`python -m benchmarks [SCENARIO …]`: measures, prints the tables, and writes all samples as JSON."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.bench import Options
from benchmarks.children import end_on_signals
from benchmarks.peers import PEERS
from benchmarks.result import Result, into_document

SCENARIOS = {
    "closed": "closed loop: requests per second, latency, CPU per request",
    "latency": "open loop: latency that a proxy adds at a fixed rate",
    "streaming": "event streams: age of an event, events per second, CPU per event",
    "bodies": "1 and 16 MiB up and down: throughput, CPU per MiB, memory",
    "workers": "1 to 4 workers on all cores",
    "idle": "5,000 idle connections: memory of each, latency with them",
    "openai": "the OpenAI shape, with LiteLLM's proxy",
    "traces": "traces off, of no request, of 1 % and of all",
    "engines": "Envoy and HAProxy, bare and as engines of a gateway",
    "shadow": "no, a healthy, a dead, a hanging and a huge-answer shadow",
}


def main(arguments: list[str] | None = None) -> int:
    """0 when every scenario was measured with every peer that was asked for, else 1."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = [*({*given.scenarios} - {*SCENARIOS, "all"}), *({*given.peers.split(",")} - {*PEERS})]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; see --help")
    end_on_signals()
    complete = True
    for name in SCENARIOS if "all" in given.scenarios else given.scenarios:
        result: Result = importlib.import_module(f"benchmarks.scenarios.{name}").run(_options(given))
        sys.stderr.write("\r\x1b[K" if sys.stderr.isatty() else "")
        print(f"# {SCENARIOS[name]}\n\n{result.markdown()}", flush=True)
        print(f"all samples: {result.write(Path(given.out))}\n", flush=True)
        if given.document:
            into_document(Path(given.document), name, result.markdown())
        complete = complete and not result.missing
    return 0 if complete else 1


def _options(given: argparse.Namespace) -> Options:
    return Options(
        peers=tuple(given.peers.split(",")),
        rounds=given.rounds,
        seconds=given.seconds,
        concurrency=tuple(int(word) for word in given.concurrency.split(",")),
        priority=given.priority,
        pause=given.pause,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "scenarios",
        nargs="*",
        default=["closed"],
        metavar="SCENARIO",
        help="; ".join(f"{name}: {what}" for name, what in SCENARIOS.items()).replace("%", "%%") + "; or all",
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each peer (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="of one round (default: %(default)s)")
    parser.add_argument("--concurrency", default="1,32,256", help="of the closed loop (default: %(default)s)")
    parser.add_argument(
        "--priority",
        default="0",
        help="of all that is measured: a niceness, or 'realtime' (needs root) against other work beside it",
    )
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between two rounds")
    parser.add_argument(
        "--out", default=".bench/results", help="directory of the results (default: %(default)s)"
    )
    parser.add_argument("--document", help="a Markdown file whose marked tables are replaced")
    return parser


if __name__ == "__main__":
    sys.exit(main())
