"""A real HAProxy serves routes of a running gateway: shares, units, sealed ids, rows, live changes, and what breaks."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import xxhash

from benchmarks.usage import process_cpu_us
from gateway.compile.plans import salt
from gateway.config.load import load
from gateway.engines.haproxy import rings
from gateway.engines.offers import salt_text
from gateway.errors import render
from policies.allocation.bucketing import allocation
from policies.allocation.cells import PARTS, cells
from tests.engines.haproxy_node import NEEDS_HAPROXY, HaproxyNode
from tests.engines.node import Setup, check_seals, wait_for

pytestmark = [
    pytest.mark.slow,
    NEEDS_HAPROXY,
]

PATH = "/v2/models/digits/infer"
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 200ms}
metrics:
  correct: {type: boolean, window: 1h}
backends:
  one: {url: "URL1"}
  two: {url: "URL2/base", headers: {x-a: "50% 'a'", x-b: "", x-c: \xe9}}
engines:
  edge: {type: haproxy, token: a-token-of-the-edge-engine, nodes: [h*], ids: sealed}
routes:
  digits:
    engine: edge
    match: {path: /v2/models/digits}
    unit: {header: x-user-id}
    variants:
      v1: {backend: one, rewrite: {path: /m/}}
      v2: {backend: two, rewrite: {path: /m/}}
    policy: {type: split, weights: {v1: 9, v2: 1}}
  plain:
    engine: edge
    match: {path: /plain, methods: [GET], headers: {x-mode: a}, host: ["*.example", 127.0.0.1]}
    variants: {only: {backend: one}}
    policy: {type: single, variant: only}
  deep:
    engine: edge
    match: {path: /plain/deep}
    variants: {only: {backend: one}}
    policy: {type: single, variant: only}
  fields:
    engine: edge
    match: {path: /fields, headers: {"x'y": \xe9, x-none: ""}}
    variants: {only: {backend: one}}
    policy: {type: single, variant: only}
  slash:
    engine: edge
    match: {path: /slash/}
    variants: {only: {backend: one}}
    policy: {type: single, variant: only}
"""


class HaproxySetup(Setup):
    """A gateway, a node and two backends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CONFIG, "h1", make=HaproxyNode)
        (node,) = self.nodes
        assert isinstance(node, HaproxyNode)
        self.node = node
        self.text = self.gateway.path.read_text()
        self.node.wait_serving(PATH)

    def edit(self, old: str, new: str) -> None:
        assert old in self.text
        self.text = self.text.replace(old, new)
        self.gateway.write(self.text)

    def shown(self) -> dict[str, Any]:
        return next(iter(self.nodes_shown()), {"state": "", "epochs": {}, "lost": 0, "delivered": 0})


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaproxySetup]:
    made = HaproxySetup(tmp_path_factory.mktemp("haproxy"))
    yield made
    made.stop()


@pytest.fixture
def client(setup: HaproxySetup) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=setup.node.url, timeout=60) as made:
        yield made


def predicted(setup: HaproxySetup, units: list[str], shares: dict[str, float]) -> list[str]:
    """What Python says of each unit: 63 bits of xxHash64 of the salted text, modulo the parts."""
    document = load(setup.gateway.path.read_text(), source="test", env={})
    prefix, found = salt_text(salt(document, "digits")), cells(allocation(shares))
    hashes = (xxhash.xxh64_intdigest(f"{prefix}{unit}".encode()) for unit in units)
    return [found.pick((hashed & (2**63 - 1)) % PARTS) for hashed in hashes]


@contextmanager
def load_on(setup: HaproxySetup) -> Iterator[Callable[[], list[httpx.Response]]]:
    """Requests by four clients while the block runs; what the block gets ends them and returns the responses."""
    done = threading.Event()

    def send() -> list[httpx.Response]:
        responses = []
        with httpx.Client(base_url=setup.node.url, timeout=60) as http:
            while not done.is_set():
                responses.append(http.post(PATH))
        return responses

    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(send) for _ in range(4)]

        def end() -> list[httpx.Response]:
            done.set()
            return [response for future in sent for response in future.result()]

        try:
            yield end
        finally:
            done.set()


def test_every_unit_gets_the_variant_that_python_predicts_before_and_after_a_ramp(
    setup: HaproxySetup, client: httpx.Client
) -> None:
    units = [f"user-{n}" for n in range(400)]

    def variant(unit: str) -> str:
        return client.post(PATH, headers={"x-user-id": unit}).headers["x-variant"]

    def assigned() -> list[str]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(variant, units))

    before = assigned()
    assert before == predicted(setup, units, {"v1": 0.9, "v2": 0.1})
    worker = setup.node.worker()
    with load_on(setup) as end:
        setup.edit("{v1: 9, v2: 1}", "{v1: 7, v2: 3}")
        wait_for(
            lambda: setup.report()["allocation"]["v2"] == 0.3 and setup.accepted(), "the node has the ramp"
        )
        after = assigned()
        responses = end()
    assert {response.status_code for response in responses} == {200}
    assert after == predicted(setup, units, {"v1": 0.7, "v2": 0.3})
    assert not [unit for unit, a, b in zip(units, before, after, strict=True) if (a, b) == ("v2", "v1")]
    counted = Counter(before), Counter(after)
    assert counted[0]["v2"] < counted[1]["v2"]
    assert setup.node.worker() == worker, "a change of shares needs no reload"


def test_a_request_is_recorded_and_takes_rewards(setup: HaproxySetup, client: httpx.Client) -> None:
    first, second = (client.post(PATH, headers={"x-user-id": "anna"}) for _ in range(2))
    outcome = setup.outcome(first)
    assert outcome["unit"] == setup.outcome(second)["unit"]
    assert outcome["sticky"]
    assert outcome["propensity"] == setup.report()["allocation"][outcome["assigned"]]
    assert (outcome["status"], outcome["error"], outcome["served"]) == (200, "", first.headers["x-variant"])
    assert outcome["request_id"] == first.headers["x-request-id"]
    assert outcome["total_ms"] >= outcome["backend_ms"] >= 0
    assert setup.reward(first.headers["x-decision-id"])["accepted"] == 1


def test_forged_and_replayed_ids_are_refused(setup: HaproxySetup, client: httpx.Client) -> None:
    check_seals(setup, *(client.post(PATH).headers["x-decision-id"] for _ in range(2)))


def test_what_the_backend_is_sent(setup: HaproxySetup, client: httpx.Client) -> None:
    sent = {"x-variant": "v2", "x-a": "evil", "x-b": "evil", "x-decision-id": "evil"}
    for backend, variant, base in zip(setup.backends, ("v1", "v2"), ("", "/base"), strict=True):
        backend.seen.clear()
        while client.post(f"{PATH}?a=1", headers=sent).headers["x-variant"] != variant:
            pass
        path, fields = backend.seen[-1]
        assert path == f"{base}/m/infer?a=1"
        own = [fields.get(name) for name in ("x-a", "x-b", "x-c")]
        assert own == (["evil", "evil", None] if variant == "v1" else ["50% 'a'", "", "\xe9"])
        assert "x-variant" not in fields
        assert "evil" not in fields["x-decision-id"]
        assert fields["host"] == backend.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("value", "none", "status"), [(b"\xe9", "", 200), ("\xe9".encode(), "", 404), (b"\xe9", None, 404)]
)
def test_headers_are_matched_as_the_gateway_does(
    client: httpx.Client, value: bytes, none: str | None, status: int
) -> None:
    sent: dict[str, bytes | str] = {"x'y": value} | ({} if none is None else {"x-none": none})
    assert client.get("/fields", headers=sent).status_code == status  # type: ignore[arg-type]
    more = [*sent.items(), ("x'y", b"other")]
    assert client.get("/fields", headers=more).status_code == 404  # type: ignore[arg-type]


HOSTILE = [
    b"", b"\xff\xfe", b"a\tb", b"\x1f", b"a\x1f-\x1fb\x1b\x7f", b"\"'%[rand] \\r\\n 9 x.1.y digits:v1 v1",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_of_a_header_breaks_its_row_or_another(setup: HaproxySetup, value: bytes) -> None:
    host, port = setup.node.address.split(":")
    for field, name in ((b"x-user-id", "unit"), (b"x-request-id", "request_id")):
        with socket.create_connection((host, int(port))) as plain:
            head = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n%b: %b\r\n\r\n"
            plain.sendall(head % (PATH.encode(), field, value))
            with plain.makefile("rb") as reader:
                lines = reader.read().split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 200 OK"
        identity = next(line for line in lines if line.startswith(b"x-decision-id: "))[15:].decode()
        outcome = setup.outcome(httpx.Response(200, headers={"x-decision-id": identity}))
        if name == "unit":
            assert outcome["sticky"] is bool(value)
        else:
            assert (outcome["request_id"] == "") is bool(value), "HAProxy makes one where there is none"


def test_conditions_of_a_route_and_requests_of_none(setup: HaproxySetup, client: httpx.Client) -> None:
    for host in ("127.0.0.1", "a.example:80"):
        answered = client.get("/plain/x", headers={"x-mode": "a", "host": host})
        assert (answered.status_code, answered.headers["x-variant"]) == (200, "only")
    outcome = setup.outcome(answered)
    assert (outcome["route"], outcome["sticky"], outcome["propensity"]) == ("plain", False, 1.0)
    for refused in (
        client.get("/plain/x"),
        client.get("/plain/x", headers={"x-mode": "a", "host": "b"}),
        client.post("/plain/x", headers={"x-mode": "a"}),
        client.get("/plainer", headers={"x-mode": "a"}),
        client.get("/plain/%2e%2e/x", headers={"x-mode": "a"}),
        client.get("/plain/x\\..\\y", headers={"x-mode": "a"}),
    ):
        assert (refused.status_code, refused.content) == (404, render("unknown_route"))
        assert "x-decision-id" not in refused.headers


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2/models/digits", "digits"), ("/v2/models/digits:predict", "digits"), ("/plain", "plain"),
        ("/plain/deepest", "plain"), ("/plain/deep", "deep"), ("/plain/deep/x", "deep"), ("/slash/", "slash"),
        ("/slash/x", "slash"), ("/slash", None), ("/v2/models/digitsx", None),
    ],
)  # fmt: skip
def test_the_longest_path_wins(
    setup: HaproxySetup, client: httpx.Client, path: str, route: str | None
) -> None:
    response = client.get(path, headers={"x-mode": "a"})
    if route is None:
        assert response.status_code == 404
    else:
        assert setup.outcome(response)["route"] == route


def test_a_reload_under_load_fails_no_request_and_loses_no_row(
    setup: HaproxySetup, client: httpx.Client
) -> None:
    with load_on(setup) as end:
        setup.edit("headers: {x-mode: a}", "headers: {x-mode: b}")
        wait_for(lambda: client.get("/plain/x", headers={"x-mode": "b"}).status_code == 200, "it is reloaded")
        responses = end()
    assert {response.status_code for response in responses} == {200}
    wait_for(setup.accepted, "the node has accepted it")
    assert {setup.outcome(response)["status"] for response in responses} == {200}


def test_what_failed_is_in_the_record(setup: HaproxySetup, client: httpx.Client) -> None:
    setup.backends[0].status = setup.backends[1].status = 503
    failed = client.post(PATH)
    setup.backends[0].status = setup.backends[1].status = 200
    outcome = setup.outcome(failed)
    assert (outcome["status"], outcome["error"]) == (503, "backend_status")
    setup.backends[0].delay = setup.backends[1].delay = 0.7
    with pytest.raises(httpx.ReadTimeout):
        client.post(PATH, headers={"x-user-id": "leaver"}, timeout=0.2)
    setup.backends[0].delay = setup.backends[1].delay = 0.0
    url = f"{setup.gateway.url}/-/outcomes?status=499"
    wait_for(
        lambda: [o["error"] for o in httpx.get(url).json()["outcomes"]] == ["client_left"],
        "the client has left",
    )


def test_without_a_gateway_nothing_is_lost_and_haproxy_starts_again(
    setup: HaproxySetup, client: httpx.Client
) -> None:
    setup.gateway.crash()
    assert client.post(PATH).status_code == 200
    setup.node.process.send_signal(signal.SIGTERM)
    setup.node.process.wait(60)
    setup.node.start()
    setup.node.wait_serving(PATH)
    responses = [client.post(PATH) for _ in range(20)]
    assert {response.status_code for response in responses} == {200}
    setup.gateway.start()
    for response in responses:
        assert setup.outcome(response)["status"] == 200
    wait_for(lambda: setup.shown()["delivered"], "the node has reported its counters")
    assert setup.shown()["lost"] == 0


@pytest.mark.parametrize("field", ["x-user-id", "x-request-id"])
def test_a_client_with_a_long_id_is_in_the_record(
    setup: HaproxySetup, client: httpx.Client, field: str
) -> None:
    """HAProxy hands over no row of 16 KiB or more, and a lost one makes the record of all clients doubtful."""
    outcome = setup.outcome(client.post(PATH, headers={field: "a" * 9000}))
    assert outcome["sticky"] is (field == "x-user-id")


def test_rows_outlast_an_agent_that_is_killed(setup: HaproxySetup, client: httpx.Client) -> None:
    """Both those that it held, as no gateway took them, and those that were logged without it."""
    setup.gateway.crash()
    responses = [client.post(PATH) for _ in range(20)]
    setup.node.agent.kill()
    setup.node.agent.wait(60)
    responses += [client.post(PATH) for _ in range(20)]
    setup.node.start_agent()
    setup.gateway.start()
    for response in responses:
        assert setup.outcome(response)["status"] == 200


def test_a_reload_by_hand_loses_no_row_even_while_the_agent_stands_still(setup: HaproxySetup) -> None:
    """An old worker empties its table of row numbers, and its last rows must wait for the agent."""
    node, worker = setup.node, setup.node.worker()
    with httpx.Client(base_url=node.url, timeout=60) as idle, httpx.Client(base_url=node.url) as busy:
        responses = [idle.post(PATH), busy.post(PATH)]
        for response in responses:
            setup.outcome(response)
        node.agent.send_signal(signal.SIGSTOP)
        try:
            node.process.send_signal(signal.SIGUSR2)
            wait_for(lambda: node.worker() != worker, "another worker accepts connections")
            wait_for(
                lambda: busy.post(PATH).headers.get("connection") != "close", "the old one leaves a client"
            )
            responses.append(idle.post(PATH))
        finally:
            node.agent.send_signal(signal.SIGCONT)
    assert responses[-1].headers["connection"] == "close", "the old worker served it"
    assert [setup.outcome(response)["status"] for response in responses] == [200] * 3
    wait_for(lambda: node.old_workers() == 0, "the agent lets the old worker end")


def reload(node: HaproxyNode, old: int) -> None:
    """Reload by hand, with ``old`` workers still there afterwards: a master that starts again misses a signal."""
    before = node.worker()
    node.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: node.worker() != before and node.old_workers() == old, "another worker serves")


def test_rows_of_workers_that_were_replaced_without_an_agent_arrive(setup: HaproxySetup) -> None:
    """An agent that starts later reaches them by the master alone."""
    node = setup.node
    node.agent.kill()
    node.agent.wait(60)
    with ExitStack() as opened:
        clients = [opened.enter_context(httpx.Client(base_url=node.url, timeout=60)) for _ in range(3)]
        responses = []
        for number, client in enumerate(clients, 1):
            responses += [client.post(PATH) for _ in range(2)]
            reload(node, number)
        process = int(node.worker().removeprefix("Pid: "))
        spent = process_cpu_us(process)
        time.sleep(1)
        assert process_cpu_us(process) - spent < 100_000, "it does not look for the agent all the time"
        node.start_agent()
        assert [setup.outcome(response)["status"] for response in responses] == [200] * 6
    wait_for(lambda: node.old_workers() == 0, "the old workers end")
    assert setup.shown()["lost"] == 0


async def test_a_worker_is_read_as_soon_as_it_starts(
    setup: HaproxySetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another reload may replace it before the agent looks for it. Checks of the user's own servers do not delay it."""
    monkeypatch.setattr(rings, "LOOK_S", 3600.0)
    setup.node.agent.terminate()
    setup.node.agent.wait(60)
    taken, room = asyncio.Queue[str](), asyncio.Event()
    room.set()

    async def read() -> None:
        async with asyncio.TaskGroup() as group:
            take = lambda worker, _: taken.put_nowait(worker)  # noqa: E731
            await rings.Rings(setup.node.files, take, lambda *_: None, room, group).run()

    def replace() -> None:
        own = setup.node.path.read_text()
        setup.node.path.write_text(f"{own}backend mine\n  server one 127.0.0.1:1 check inter 1h\n")
        reload(setup.node, 1)
        setup.node.path.write_text(own)
        assert httpx.post(setup.node.url + PATH).status_code == 200

    await asyncio.to_thread(httpx.post, setup.node.url + PATH)
    task = asyncio.create_task(read())
    first = await asyncio.wait_for(taken.get(), 60)
    await asyncio.to_thread(replace)
    while await asyncio.wait_for(taken.get(), 60) == first:
        pass
    task.cancel()
    await asyncio.wait([task])
    setup.node.start_agent()


def test_a_node_that_refuses_keeps_its_last_configuration(setup: HaproxySetup, client: httpx.Client) -> None:
    routes, own = (setup.node.files / "routes.cfg").read_text(), setup.node.path.read_text()
    setup.node.path.write_text(f"{own}  a-word-that-haproxy-does-not-know\n")
    mode = "b" if "{x-mode: b}" in setup.text else "a"  # another test may have edited it
    setup.edit(f"headers: {{x-mode: {mode}}}", "headers: {x-mode: c}")
    wait_for(lambda: setup.shown()["state"] == "refused", "the node refuses it")
    assert "its log says why" in setup.shown()["refused"]
    assert client.post(PATH).status_code == 200
    assert (setup.node.files / "routes.cfg").read_text() == routes
    setup.node.path.write_text(own)
    wait_for(lambda: client.get("/plain/x", headers={"x-mode": "c"}).status_code == 200, "it is taken")
    wait_for(setup.accepted, "the node has accepted it")


def test_an_agent_that_cannot_write_says_so_and_goes_on(setup: HaproxySetup, client: httpx.Client) -> None:
    """As on a full disk: it ended, and the rows that it held were lost."""
    files = setup.node.files

    def blocked(name: str) -> bool:
        try:
            (files / f".{name}.new").mkdir()
        except FileExistsError:  # it is being written now
            return False
        return True

    for name in ("routes.cfg", "rows.json"):
        wait_for(partial(blocked, name), "nothing can be written under this name")
    before = {name: (files / name).read_text() for name in ("routes.cfg", "ranges.map", "paths.map")}
    mode = next(mode for mode in "abc" if f"headers: {{x-mode: {mode}}}" in setup.text)
    setup.edit(f"headers: {{x-mode: {mode}}}", "headers: {x-mode: d}")
    wait_for(lambda: "cannot write" in setup.shown()["refused"], "the agent tells it")
    assert {name: (files / name).read_text() for name in before} == before
    assert setup.outcome(client.post(PATH))["status"] == 200
    for name in ("routes.cfg", "rows.json"):
        (files / f".{name}.new").rmdir()
    wait_for(lambda: client.get("/plain/x", headers={"x-mode": "d"}).status_code == 200, "it is taken")
    wait_for(setup.accepted, "the node has accepted it")
