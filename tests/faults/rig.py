"""The real gateway between raw sockets, with a configuration of the test's own and the record at hand."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.children import free_port
from gateway.record.events import Outcome, Shadowed
from tests.support.backend import RawBackend, Step
from tests.support.rig import GatewayThread

HEAD = """\
listen: 127.0.0.1:0
store: sqlite:///@DIR@/turnout.db
loops: {allocation: 1h, watch: 1h}
"""


class Always(deque[Sequence[Step]]):
    """The same steps for every request."""

    def popleft(self) -> Sequence[Step]:
        return self[0]


class FaultRig(GatewayThread):
    """The gateway with a configuration of the test's own.

    In the configuration @NAME@ stands for the port of the backend of that name, one for each of ``names``;
    @DEAD@ for a port where nobody listens.
    """

    def __init__(self, folder: Path, config: str, names: Sequence[str] = ("a", "b")) -> None:
        super().__init__(folder)
        self.config = config
        self.backends = {name: RawBackend(name.encode()) for name in names}
        self.raw = list(self.backends.values())
        self.outcomes: list[Outcome] = []
        """What was recorded since the last `fresh`."""
        self.shadowed: list[Shadowed] = []

    @contextmanager
    def full_listener(self) -> Iterator[None]:
        """Listens for the backend ``full`` with a full queue: connecting to it neither succeeds nor fails."""
        port = self.gateway.api.document().backends["full"].addresses[0].port
        with socket.socket() as listener, ExitStack() as stack:
            listener.bind(("127.0.0.1", port))
            listener.listen(0)
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            time.sleep(0.05)
            yield

    async def _start(self) -> None:
        for backend in self.raw:
            await backend.start()
        await self._serve(self.text(self.config))
        self._listen_in()

    def text(self, config: str) -> str:
        text = (HEAD + config).replace("@DIR@", str(self.folder)).replace("@DEAD@", str(free_port()))
        for name, backend in self.backends.items():
            text = text.replace(f"@{name.upper()}@", str(backend.port))
        return text

    def _listen_in(self) -> None:
        worker, offer = self.worker, self.worker.offer
        record = self.shadow._record

        def both(outcome: Any) -> None:
            self.outcomes.append(Outcome._make(outcome))
            offer(outcome)

        def shadowed(row: Shadowed) -> None:
            self.shadowed.append(row)
            record(row)

        worker.offer = both
        self.shadow._record = shadowed

    def edit(self, config: str) -> None:
        """Puts another configuration in force."""
        etag = self.gateway.api.revision().etag
        self.run(self.gateway.api.revisions.propose(self.text(config), "test", etag))

    # What backends do -------------------------------------------------------------------------------
    def next(self, name: str, *steps: Step) -> None:
        """What ``name`` does with its next unplanned request."""
        self.backends[name].plans.append(steps)

    def always(self, name: str, *steps: Step) -> None:
        """What ``name`` does with every request from now on."""
        self.backends[name].plans = Always([steps])

    def well(self, name: str) -> None:
        """From now on ``name`` answers as it should; what it holds back goes out."""
        backend = self.backends[name]
        backend.plans = deque()

        def release() -> None:
            backend.released.set()
            backend.released = asyncio.Event()

        self.call(release)

    # What tests ask ---------------------------------------------------------------------------------
    def fresh(self) -> None:
        """Nothing in flight, no connection, nothing recorded, nobody ill."""

        super().fresh()
        self.call(self._heal)
        self.outcomes.clear()
        self.shadowed.clear()

    def _heal(self) -> None:
        """Nobody is ejected, under suspicion, or known to be slow."""
        for address in self.gateway.registry.addresses.values():
            address.stalled = False
            address.latency.samples = 0
        for health in self.gateway.registry.healths.values():
            known, settings = dict(health._records), health._group.settings
            health.configure((), settings)  # forgets whoever is not named
            health.configure(tuple(known), settings)
            for address, record in known.items():  # what probes say, they must take back themselves
                health._group.mark(health._records[address], healthy=record.healthy)
            health.tick(time.perf_counter())

    def ask(self, path: str, *, method: bytes = b"POST", body: bytes = b"{}", lines: bytes = b"") -> Any:
        """One request on a connection of its own, answered."""
        with self.client() as client:
            client.send(request(path, method=method, body=body, lines=lines))
            return client.answer(method)

    def recorded(self, count: int) -> list[Outcome]:
        """The outcomes, once there are ``count``: a client may have its response before."""
        self.until(lambda: len(self.outcomes) >= count)
        assert len(self.outcomes) == count
        return self.outcomes

    def outcome(self) -> Outcome:
        """The one outcome that was recorded."""
        (found,) = self.recorded(1)
        return found

    def attempts(self) -> list[tuple[str, object]]:
        """(variant, what came of it) of each attempt but a single good one."""
        text = self.outcome().attempts
        return [(variant, result) for variant, _, result, _ in json.loads(text)] if text else []

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What was told of ``kind``, oldest first."""

        async def found() -> list[dict[str, Any]]:
            await asyncio.sleep(0.05)
            while any("emit" in str(task.get_coro()) for task in self.gateway.tasks.running):
                await asyncio.sleep(0.01)  # what was told is still being written down
            events = await self.gateway.store.events()
            return [json.loads(event.data) for event in events if event.kind == kind]

        return self.run(found())


def request(path: str, *, method: bytes = b"POST", body: bytes = b"{}", lines: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(body) if body else b""
    return b"%b %b HTTP/1.1\r\nhost: test\r\n%b%b\r\n%b" % (method, path.encode(), length, lines, body)
