"""``turnout demo``: bundled model server, gateway, and held-out digits replayed through it with true labels.

Nothing is simulated: both servers are processes of their own, each image goes through the gateway as a client
would send it, and the model's response is compared with the label and reported as a reward.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx

from gateway.commands.output import add_json, complain, note, print_json, progress, say, table
from gateway.commands.times import positive
from gateway.config.faults import ConfigError
from gateway.config.load import load_file
from turnout import AsyncClient, BufferFull, FlushTimeout, RewardsRejected

EXAMPLE: Final = "config.example.yaml"
CHAT: Final = "chat"
"""The route, if the configuration has it, that gets a streamed chat every `CHAT_INTERVAL_S`."""
CHAT_INTERVAL_S: Final = 0.5
CLIENTS: Final = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--duration", type=positive, default=None, metavar="S", help="stop after S seconds (default: never)"
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=example(),
        metavar="FILE",
        help=f"configuration file (default: {EXAMPLE})",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="model repository (default: models)",
    )
    parser.add_argument(
        "--rate", type=positive, default=300.0, metavar="R", help="maximum requests per second (default: 300)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add_json(parser, "print the summary as one JSON document")


def example() -> Path:
    """The example configuration: package data of an installed wheel, top level of a checkout."""
    packaged = Path(__file__).parents[1] / EXAMPLE
    found = packaged if packaged.exists() else Path(__file__).parents[2] / EXAMPLE
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def main(arguments: argparse.Namespace) -> int:
    # Before anything is trained: a wrong file is reported immediately. Late imports: torch takes seconds.
    try:
        document = load_file(arguments.config)
        backend_url, gateway_url = str(document.backends["digits"].addresses[0]), f"http://{document.listen}"
        document.routes["digits"]
    except ConfigError as error:
        return complain(error)
    except KeyError:
        return complain(f"{arguments.config} needs a backend and a route named 'digits'")
    from backends import train, train_text
    from backends.reference import digits

    chat = CHAT in document.routes
    names = (train.NAME, train_text.NAME) if chat else (train.NAME,)
    if not all((arguments.models / name).exists() for name in names):
        import torch  # noqa: F401  # before anything is announced that needs it

        note(f"training the reference models into {arguments.models} (about 30 seconds) ...")
    train.ensure(arguments.models)
    if chat:
        train_text.ensure(arguments.models)
    data = digits.held_out()
    rows = [[float(v) for v in row] for row in data.pixels]
    labels = [int(label) for label in data.labels]
    with tempfile.TemporaryDirectory(prefix="turnout-demo-") as folder:
        place = Place(gateway_url, backend_url, Path(folder), chat)
        try:
            return asyncio.run(_demo(arguments, rows, labels, place))
        except FlushTimeout as error:
            return complain(error)
        except httpx.HTTPError as error:  # the gateway has ended; its message is above
            return complain(f"the gateway gives no report: {error}")


class Tally:
    """Results that the clients observed, by the variant that served them."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.correct: dict[str, int] = {}
        self.failed = 0
        self.lost = 0

    def saw(self, variant: str, correct: bool) -> None:
        self.requests[variant] = self.requests.get(variant, 0) + 1
        self.correct[variant] = self.correct.get(variant, 0) + correct

    def line(self) -> str:
        total = sum(self.requests.values())
        parts = [
            f"{name} {count / total:.0%} of traffic, {self.correct[name] / count:.1%} right"
            for name, count in sorted(self.requests.items())
        ]
        return f"{total} requests: {'; '.join(parts)}"


class Place(NamedTuple):
    """Base URLs of both servers, and the folder of the demo's own store."""

    gateway: str
    backend: str
    folder: Path
    chat: bool


async def _demo(
    arguments: argparse.Namespace, rows: Sequence[list[float]], labels: Sequence[int], place: Place
) -> int:
    end, loop = asyncio.Event(), asyncio.get_running_loop()
    # Before the servers start: in sessions of their own, they would outlive a demo that a signal ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end.set)
    processes = await _start(arguments, place, end)
    tally = Tally()
    try:
        note(f"dashboard: {place.gateway}/-/dashboard/   (Ctrl-C ends the demo)")
        await _replay(arguments, place.gateway, rows, labels, tally, end, chat=place.chat)
        async with httpx.AsyncClient(base_url=place.gateway) as client:
            await asyncio.sleep(1.5)  # the last rewards reach the allocation within a second
            response = await client.get("/-/routes/digits")
            report: dict[str, Any] = response.raise_for_status().json()
    finally:
        _stop(processes)
    _summary(report, tally, as_json=arguments.json)
    note(
        "next: a configuration for your own servers\n  turnout init --current HOST:PORT --candidate HOST:PORT"
    )
    return 0 if not tally.lost else 1


async def _start(
    arguments: argparse.Namespace, place: Place, end: asyncio.Event
) -> list[subprocess.Popen[bytes]]:
    """Raises SystemExit if a server does not start, and KeyboardInterrupt at the ``end``."""
    turnout = [sys.executable, "-m", "gateway.cli"]
    port = str(urlsplit(place.backend).port)
    backend = [
        *turnout, "backend", "--models", str(arguments.models), "--port", port, "--device", arguments.device,
    ]  # fmt: skip
    gateway = [
        *turnout, "run", "--config", str(arguments.config), "--store", f"sqlite:///{place.folder / 'turnout.db'}",
    ]  # fmt: skip
    processes = [_spawned(backend)]
    try:
        await _ready(f"{place.backend}/v2/health/ready", processes, end)
        processes.append(_spawned(gateway))
        await _ready(f"{place.gateway}/-/readyz", processes, end)
    except BaseException:
        _stop(processes)
        raise
    return processes


def _spawned(words: Sequence[str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches the demo alone, which still needs the gateway's report.
    return subprocess.Popen(words, start_new_session=True)


async def _ready(url: str, processes: Sequence[subprocess.Popen[bytes]], end: asyncio.Event) -> None:
    deadline = monotonic() + 120.0
    async with httpx.AsyncClient() as client:
        while monotonic() < deadline:
            if end.is_set():
                raise KeyboardInterrupt
            if any(process.poll() is not None for process in processes):
                raise SystemExit(
                    "turnout demo: a server has ended before it was ready; see its message above"
                )
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise SystemExit(f"turnout demo: no response from {url}")


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


async def _replay(
    arguments: argparse.Namespace,
    url: str,
    rows: Sequence[list[float]],
    labels: Sequence[int],
    tally: Tally,
    end: asyncio.Event,
    *,
    chat: bool,
) -> None:
    """Sends images, and with ``chat`` prompts, in turn until the time is up or a signal arrives (``end``)."""
    loop = asyncio.get_running_loop()
    limits = httpx.Limits(max_connections=CLIENTS + 1, max_keepalive_connections=CLIENTS + 1)
    client = AsyncClient(url, limits=limits, timeout=30.0)
    pace = _Pace(arguments.rate)
    senders = [
        loop.create_task(_sender(client, rows, labels, first, tally, pace, end)) for first in range(CLIENTS)
    ]
    shown = loop.create_task(_progress(tally))
    chatting = [loop.create_task(_chat(client, end))] if chat else []
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(end.wait(), arguments.duration)
    end.set()
    await asyncio.gather(*senders, *chatting)
    shown.cancel()
    try:
        await client.aclose()
    except RewardsRejected as error:
        tally.lost += len(error.rejections)


async def _chat(client: httpx.AsyncClient, end: asyncio.Event) -> None:
    """One streamed chat after the other, about the topics that the model was trained on."""
    for topic in cycle(("The if statement", "Comparisons", "The import system", "Numeric literals")):
        if end.is_set():
            return
        messages = [{"role": "user", "content": topic}]
        body = {"model": "bytes-lm", "messages": messages, "max_tokens": 64, "stream": True}
        with contextlib.suppress(httpx.HTTPError):  # the dashboard shows it
            await client.post("/v1/chat/completions", json=body)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), CHAT_INTERVAL_S)


class _Pace:
    """Pacing of all senders together to an even number of requests per second."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate
        self._next = monotonic()

    async def turn(self, end: asyncio.Event) -> bool:
        """Wait for the next turn; False at the ``end``, which may come long before it."""
        due = max(self._next, monotonic())
        self._next = due + self._gap
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), max(0.0, due - monotonic()))
        return not end.is_set()


async def _sender(
    client: AsyncClient,
    rows: Sequence[list[float]],
    labels: Sequence[int],
    first: int,
    tally: Tally,
    pace: _Pace,
    end: asyncio.Event,
) -> None:
    place = first
    while await pace.turn(end):
        row, label = rows[place % len(rows)], labels[place % len(rows)]
        place += CLIENTS
        try:
            response = await client.infer("digits", {"pixels": [row]})
        except httpx.HTTPError:
            tally.failed += 1
            continue
        if response.status_code != 200:
            tally.failed += 1
            continue
        correct = int(response.outputs()["label"][0]) == label
        tally.saw(response.decision.variant, correct)
        try:
            response.decision.reward("correct", correct)
        except BufferFull:  # the store has been away for a while: requests go on, as in a real service
            tally.lost += 1


async def _progress(tally: Tally) -> None:
    while True:
        await asyncio.sleep(0.5)
        if tally.requests:
            progress(tally.line())


def _summary(report: dict[str, Any], tally: Tally, *, as_json: bool) -> None:
    variants = {
        name: {
            "requests": v["assigned"],
            "share": report["allocation"].get(name, 0.0),
            "accuracy": (v["rewards"].get("correct") or {}).get("mean"),
            "interval": (v["rewards"].get("correct") or {}).get("interval"),
            "probability_best": v["probability_best"],
            "latency_ms": v["latency_ms"],
        }
        for name, v in report["variants"].items()
    }
    result = {
        "variants": variants,
        "failed": tally.failed,
        "rewards_lost": tally.lost,
        "epoch": report["epoch"],
    }
    if as_json:
        print_json(result)
        return
    progress()
    columns = ("variant", "requests", "share now", "accuracy", "95 % interval", "P(best)", "p50 ms", "p99 ms")
    table(_FORM, columns, [_row(name, v) for name, v in variants.items()])
    say(f"{tally.failed} requests failed, {tally.lost} rewards lost.")


_FORM: Final = "{:10}{:>10}{:>11}{:>10}  {:17}{:>9}{:>9}{:>9}"


def _row(name: str, v: dict[str, Any]) -> tuple[object, ...]:
    interval = f"[{v['interval'][0]:.3f}, {v['interval'][1]:.3f}]" if v["interval"] else "-"

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    latency = v["latency_ms"] or {}
    return (
        name,
        v["requests"],
        f"{v['share']:.1%}",
        shown(v["accuracy"], ".1%"),
        interval,
        shown(v["probability_best"], ".4f"),
        shown(latency.get("p50"), ".2f"),
        shown(latency.get("p99"), ".2f"),
    )
