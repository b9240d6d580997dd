"""Starting, sharing a port, dying and ending: what an operator relies on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks.children import free_port
from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess, children, ended

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics: {good: {type: boolean}}
backends:
  slow: {url: "http://127.0.0.1:@BACKEND@"}
routes:
  slow:
    match: {path: /slow}
    variants: {v1: {backend: slow}}
    policy: {type: single, variant: v1}
"""


class Slow(BaseHTTPRequestHandler):
    """Holds what asks for it; of `/half` only the body."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.endswith("/half"):
            self._begin()
        if query == "held":
            self.server.held += 1
            self.server.released.wait(120)
        if not path.endswith("/half"):
            self._begin()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # some tests leave early, on purpose
            self.wfile.write(b"done")

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "4")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # of the 20 connections at once, none may wait for a second try
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Slow)
        self.held = 0
        """Requests that came to be held."""
        self.released = threading.Event()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def text(server: Server) -> str:
    return CONFIG.replace("@BACKEND@", str(server.server_address[1]))


@pytest.fixture
def backend(server: Server) -> Iterator[Server]:
    """With nothing held before the test, nor after it."""
    server.held = 0
    server.released.clear()
    yield server
    server.released.set()


async def holding(backend: Server, count: int) -> None:
    await asyncio.to_thread(wait_for, lambda: backend.held == count)


async def closed(gateway: GatewayProcess) -> None:
    """Until it takes no connections: it has seen the signal to end."""

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", gateway.port), timeout=60).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass
        return False

    await asyncio.to_thread(wait_for, refused)


async def test_sigterm_finishes_what_is_under_way(tmp_path: Path, text: str, backend: Server) -> None:
    with GatewayProcess(tmp_path, text) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            idle = await client.get("/slow")
            assert idle.status_code == 200
            under_way = [asyncio.create_task(client.get("/slow?held")) for _ in range(20)]
            await holding(backend, 20)
            gateway.process.send_signal(signal.SIGTERM)
            await closed(gateway)
            backend.released.set()
            answers = await asyncio.gather(*under_way)
            assert [a.status_code for a in answers] == [200] * 20
            assert all(a.headers["connection"] == "close" for a in answers)
        assert gateway.process.wait(60) == 0
        gateway.start()
        found = httpx.get(f"{gateway.url}/-/routes/slow").json()["variants"]["v1"]
        assert found["assigned"] == found["served"] == 21


async def test_sigterm_waits_no_longer_than_it_may(tmp_path: Path, text: str, backend: Server) -> None:
    with GatewayProcess(tmp_path, f"{text}shutdown: {{grace: 1s}}\n") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            asking = asyncio.create_task(client.get("/slow?held"))
            await holding(backend, 1)
            gateway.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.process.wait, 60) == 0
            assert (await asking).status_code == 503


async def test_what_the_end_cuts_short_is_told_and_recorded(
    tmp_path: Path, text: str, backend: Server
) -> None:
    """Whoever has had nothing gets an answer; an answer under way is cut; neither is the variant's fault."""
    with GatewayProcess(tmp_path, f"{text}shutdown: {{grace: 1s}}\n") as gateway:
        async with (
            httpx.AsyncClient(base_url=gateway.url, timeout=60) as client,
            client.stream("GET", "/slow/half?held") as relaying,
        ):
            waiting = asyncio.create_task(client.get("/slow?held"))
            await holding(backend, 2)
            gateway.process.send_signal(signal.SIGTERM)
            answer = await waiting
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["connection"] == "close"
            with pytest.raises(httpx.TransportError):
                await relaying.aread()
        assert gateway.process.wait(60) == 0
        gateway.start()
        found = httpx.get(f"{gateway.url}/-/outcomes").json()["outcomes"]
        assert sorted((o["status"], o["error"], o["served"]) for o in found) == [
            (200, "draining", "v1"),
            (503, "draining", ""),
        ]
        counted = httpx.get(f"{gateway.url}/-/routes/slow").json()["variants"]["v1"]
        assert (counted["assigned"], counted["errors"]) == (2, 0)


async def test_idle_connections_stay_as_long_as_they_may(tmp_path: Path, text: str) -> None:
    with GatewayProcess(tmp_path, f"{text}shutdown: {{grace: 60s, idle: 30s}}\n") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            assert (await client.get("/slow")).status_code == 200
            gateway.process.send_signal(signal.SIGTERM)
            await closed(gateway)
            await asyncio.sleep(2)  # twice as long as without `idle`
            late = await client.get("/slow")
            assert (late.status_code, late.headers["connection"]) == (200, "close")
            assert await asyncio.to_thread(gateway.process.wait, 60) == 0


async def test_a_connection_whose_answer_began_before_the_end_does_not_hold_it_up(
    tmp_path: Path, text: str, backend: Server
) -> None:
    """Its head could not say that the connection will end; the client keeps it, and the gateway does not."""
    with GatewayProcess(tmp_path, f"{text}shutdown: {{grace: 10m}}\n") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            async with client.stream("GET", "/slow/half?held") as answer:
                gateway.process.send_signal(signal.SIGTERM)
                await closed(gateway)
                backend.released.set()
                assert await answer.aread() == b"done"
                assert "connection" not in answer.headers
            assert await asyncio.to_thread(gateway.process.wait, 60) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_second_interrupt_cuts_requests_short_and_not_the_record(
    tmp_path: Path, text: str, backend: Server, workers: str
) -> None:
    with GatewayProcess(tmp_path, f"{text}shutdown: {{grace: 10m}}\n", "--workers", workers) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            assert (await client.get("/slow")).status_code == 200
            waiting = asyncio.create_task(client.get("/slow?held"))
            await holding(backend, 1)
            gateway.process.send_signal(signal.SIGINT)
            await closed(gateway)
            gateway.process.send_signal(signal.SIGINT)
            assert (await waiting).json()["error"]["code"] == "draining"
            assert await asyncio.to_thread(gateway.process.wait, 60) == 0
        assert "Traceback" not in gateway.log
        gateway.start()
        found = httpx.get(f"{gateway.url}/-/outcomes").json()["outcomes"]
        assert sorted(o["status"] for o in found) == [200, 503]


@pytest.mark.slow
async def test_a_worker_that_dies_is_replaced_and_no_answered_reward_is_lost(
    tmp_path: Path, text: str
) -> None:
    with GatewayProcess(tmp_path, text, "--workers", "2") as gateway:
        wait_for(lambda: len(children(gateway.process.pid)) == 2)
        acknowledged = 0
        end = time.monotonic() + 120
        first = set(children(gateway.process.pid))
        killed = False
        while len(set(children(gateway.process.pid)) - first) < 1 or acknowledged < 150:
            assert time.monotonic() < end
            try:
                async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
                    for _ in range(10):
                        answer = await client.get("/slow")
                        item = {
                            "decision_id": answer.headers["x-decision-id"],
                            "metric": "good",
                            "value": True,
                        }
                        reported = await client.post("/-/feedback", json=item)
                        acknowledged += reported.status_code == 200
            except httpx.TransportError:
                assert killed
            if not killed and acknowledged > 50:
                os.kill(min(first), signal.SIGKILL)
                killed = True
        assert len(set(children(gateway.process.pid)) & first) == 1
        assert "starting another" in gateway.log
        reward = httpx.get(f"{gateway.url}/-/routes/slow").json()["variants"]["v1"]["rewards"]["good"]
        assert acknowledged <= reward["count"] <= acknowledged + 1
        # A scrape of either worker tells of both.
        scraped = httpx.get(f"{gateway.url}/-/metrics").text
        assert 'turnout_rewards_total{result="accepted"}' in scraped
        assert gateway.stop() == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells a process of its parent's end")
async def test_workers_end_with_their_parent(tmp_path: Path, text: str, backend: Server) -> None:
    """Nobody would replace them, and they would hold the port; what is under way still ends well."""
    with GatewayProcess(tmp_path, text, "--workers", "2") as gateway:
        wait_for(lambda: len(children(gateway.process.pid)) == 2)
        found = children(gateway.process.pid)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            under_way = [asyncio.create_task(client.get("/slow?held")) for _ in range(4)]
            await holding(backend, 4)
            gateway.kill()
            await closed(gateway)
            backend.released.set()
            assert [(await task).status_code for task in under_way] == [200] * 4
        wait_for(lambda: all(ended(pid) for pid in found))
        gateway.start()


@pytest.mark.slow
def test_a_worker_is_replaced_though_the_file_has_a_fault_by_now(tmp_path: Path, text: str) -> None:
    """The others go on with the last good one; so does whoever takes the place of one that died."""
    with GatewayProcess(tmp_path, text, "--workers", "2") as gateway:
        wait_for(lambda: len(children(gateway.process.pid)) == 2)
        gateway.write(text.replace("match: {path: /slow}", "match: {path: /edited}"))
        wait_for(lambda: httpx.get(f"{gateway.url}/edited").status_code == 200)
        gateway.write(f"{text}nonsense: 1\n")
        wait_for(lambda: "there is no key 'nonsense'" in gateway.log)
        before = children(gateway.process.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        gateway.wait_ready()
        assert httpx.get(f"{gateway.url}/edited").status_code == 200
        wait_for(lambda: len(set(children(gateway.process.pid)) - set(before)) == 2)
        gateway.write(text.replace("match: {path: /slow}", "match: {path: /mended}"))
        wait_for(lambda: httpx.get(f"{gateway.url}/mended").status_code == 200)
        assert gateway.log.count("starting another") == 2
        assert gateway.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_runs_as_nobody_and_writes_nothing_but_its_state(tmp_path: Path, text: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    port = free_port()
    config = tmp_path / "turnout.yaml"
    config.write_text(text.replace("@PORT@", str(port)).replace("@DIR@", str(state)))
    before = {path for path in tmp_path.rglob("*") if state not in path.parents}
    for path in (tmp_path, *tmp_path.parents):
        if os.stat(path).st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    os.chown(state, 65534, 65534)
    package = Path(__file__).parent.parent.parent
    if any(
        not os.stat(p).st_mode & 0o001
        for p in [package, *package.parents, *Path(sys.executable).resolve().parents]
    ):
        pytest.skip("nobody may not even read this checkout")
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "gateway.cli", "run", "--config", str(config), "--workers", "2"],
        cwd=package,
        user=65534,
        group=65534,
        extra_groups=[],
        env={"PATH": os.environ["PATH"]},
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/slow").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        assert httpx.get(f"http://127.0.0.1:{port}/slow").status_code == 200
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    assert {path for path in tmp_path.rglob("*") if state not in path.parents} == before
    assert {path.name.split(".")[0] for path in state.iterdir()} == {"turnout"}


def test_a_caller_behind_a_proxy_is_not_local(tmp_path: Path, text: str) -> None:
    """Without `auth` only this machine may steer; a proxy on this machine must not lend that to the world."""
    with GatewayProcess(tmp_path, text) as gateway:
        url = f"{gateway.url}/-/config"
        assert httpx.get(url).status_code == 200
        for name, value in (("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9")):
            assert httpx.get(url, headers={name: value}).status_code == 403


def _may_remount() -> bool:
    """Whether this process may have a view of the file system of its own (a container's root often may not)."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return False
    done = subprocess.run(
        ["unshare", "-m", "mount", "-o", "remount,bind,ro", "/"], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _may_remount(), reason="only who may remount can make the file system read-only")
def test_all_but_the_store_may_be_read_only(tmp_path: Path, text: str) -> None:
    """Two workers without any right, on a file system of which they may write to one directory."""
    state = tmp_path / "state"
    state.mkdir()
    port = free_port()
    config = tmp_path / "turnout.yaml"
    config.write_text(text.replace("@PORT@", str(port)).replace("@DIR@", str(state)))
    script = f"""
        mount --bind {state} {state} && mount -o remount,bind,ro / || exit 3
        for other in $(awk '{{print $5}}' /proc/self/mountinfo); do
            case $other in
                /|/proc*|/dev|/dev/[!s]*|/sys*|{state}) ;;
                *) mount -o remount,bind,ro $other || exit 4 ;;  # also /dev/shm, where make test puts tmp_path
            esac
        done
        touch {tmp_path}/no 2>/dev/null && exit 5
        exec setpriv --inh-caps=-all --bounding-set=-all "$@"
    """
    run = [sys.executable, "-B", "-m", "gateway.cli", "run", "--config", str(config), "--workers", "2"]
    process = subprocess.Popen(
        ["unshare", "-m", "bash", "-c", script, "-", *run],
        cwd=Path(__file__).parent.parent.parent,
        stderr=subprocess.PIPE,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            try:
                if httpx.get(f"{url}/slow").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        answer = httpx.get(f"{url}/slow")
        item = {"decision_id": answer.headers["x-decision-id"], "metric": "good", "value": True}
        assert httpx.post(f"{url}/-/feedback", json=item).json()["accepted"] == 1
        assert httpx.get(f"{url}/-/metrics").status_code == 200
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    assert "Traceback" not in said.decode()
    assert [path.name for path in state.iterdir()] == ["turnout.db"]
