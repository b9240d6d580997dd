"""CPU per request of HTTP/2 and of gRPC, and per message that gRPC streams, of Turnout and of Envoy.

    .venv/bin/python -m benchmarks.http2 [--rounds N]

Both stand in front of the same upstream. h2load loads HTTP/2, grpcio loads gRPC; a second Envoy is the upstream of the
one, a grpcio server that of the other. Rounds of the peers alternate. Needs Debian's ``nghttp2-client`` and the extra
``bench``.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc

from benchmarks.children import Child, free_port, free_ports
from benchmarks.peers.compiled import python
from benchmarks.usage import usage

METHOD: Final = "/bench.Echo/Unary"
STREAM: Final = "/bench.Echo/Stream"
STREAMED: Final = 50
"""Messages of one response."""
BODY: Final = b"x" * 74
MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER: Final = "envoy.extensions.filters.http.router.v3.Router"
OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
LISTENER: Final = """\
static_resources:
  listeners:
    - address: {socket_address: {address: 127.0.0.1, port_value: @PORT@}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/@MANAGER@
                codec_type: HTTP2
                stat_prefix: bench
                route_config:
                  virtual_hosts:
                    - {name: all, domains: ["*"], routes: [{match: {prefix: /}, @ACTION@}]}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/@ROUTER@}
"""
CLUSTER: Final = """\
  clusters:
    - name: upstream
      type: STATIC
      connect_timeout: 1s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/@OPTIONS@
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: upstream
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @UPSTREAM@}}}
"""
TURNOUT: Final = """\
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
record: {enabled: @RECORD@}
backends:
  upstream: {url: "h2c://127.0.0.1:@UPSTREAM@"}
routes:
  all:
    match: {path: /}
    unit: {header: x-user-id}
    variants: {v1: {backend: upstream}, v2: {backend: upstream}}
    policy: {type: split, weights: {v1: 9, v2: 1}}
"""
Load = Callable[[int, int], None]
"""Sends a number of requests to a port."""


def h2load(port: int, count: int) -> None:
    with TemporaryDirectory() as folder:
        body = Path(folder, "body")
        body.write_bytes(BODY)
        words = ["-n", str(count), "-c", "4", "-m", "8", "-d", str(body), "-H", "x-user-id: u1"]
        done = subprocess.run(
            ["h2load", *words, f"http://127.0.0.1:{port}/v2/models/m/infer"],
            capture_output=True,
            text=True,
            check=True,
        )
    if not re.search(rf"status codes: {count} 2xx", done.stdout):
        raise SystemExit(done.stdout)


def grpc_load(port: int, count: int) -> None:
    free = threading.Semaphore(32)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD)
        futures = []
        for _ in range(count):
            free.acquire()
            future = call.future(BODY, timeout=30, metadata=(("x-user-id", "u1"),))
            future.add_done_callback(lambda _: free.release())
            futures.append(future)
        if any(future.result() != BODY for future in futures):
            raise SystemExit("a response differs")


def grpc_stream_load(port: int, count: int) -> None:
    """Streams of `STREAMED` messages each, ``count`` messages in all, eight streams at a time."""

    def stream(_: int) -> bool:
        return [*call(BODY, timeout=30, metadata=(("x-user-id", "u1"),))] == [BODY] * STREAMED

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor(8) as threads:
        call = channel.unary_stream(STREAM)
        if not all(threads.map(stream, range(count // STREAMED))):
            raise SystemExit("a stream differs")


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The upstream of the gRPC calls."""

    def service(self, details: Any) -> Any:
        if details.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request] * STREAMED))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


@contextmanager
def grpc_upstream() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


def envoy(port: int, action: str, rest: str, folder: Path, core: int) -> Child:
    text = (LISTENER.replace("@ACTION@", action) + rest).replace("@PORT@", str(port))
    for name, value in (("@MANAGER@", MANAGER), ("@ROUTER@", ROUTER), ("@OPTIONS@", OPTIONS)):
        text = text.replace(name, value)
    path = folder / f"envoy{port}.yaml"
    path.write_text(text)
    binary = Path(sys.executable).with_name("envoy")
    words = [str(binary), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return Child("envoy", words, cores=[core], log=folder / f"envoy{port}.log")


def configure(place: Path, port: int, upstream: int, *, record: bool) -> Path:
    """The configuration file of a gateway that keeps its files in ``place``."""
    path = place / "turnout.yaml"
    values = {
        "@PORT@": port, "@DIR@": place, "@UPSTREAM@": upstream, "@RECORD@": "true" if record else "false"
    }  # fmt: skip
    text = TURNOUT
    for name, value in values.items():
        text = text.replace(name, str(value))
    path.write_text(text)
    return path


def turnout(port: int, upstream: int, folder: Path, core: int, *, record: bool, compiled: bool) -> Child:
    place = folder / f"turnout{port}"
    place.mkdir()
    path = configure(place, port, upstream, record=record)
    words, env = python("gateway.cli") if compiled else ([sys.executable, "-m", "gateway.cli"], {})
    words = [*words, "run", "--config", str(path)]
    return Child("turnout", words, cores=[core], log=place / "log", env=env)


def measure(children: dict[str, tuple[Child, int]], load: Load, count: int, rounds: int) -> dict[str, float]:
    """The median of CPU microseconds per request, by peer."""
    found: dict[str, list[float]] = {name: [] for name in children}
    for _, port in children.values():
        load(port, count // 4)  # warm
    for _ in range(rounds):
        for name, (child, port) in children.items():
            before = usage(child.session).cpu_us
            load(port, count)
            found[name].append((usage(child.session).cpu_us - before) / count)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=8000, help="requests, or messages, of a round")
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core + 1})  # gRPC's load and upstream are threads of this process
    forms = {"Turnout": False, "Turnout compiled": True}
    print("| CPU µs | HTTP/2 request | to Envoy | unary gRPC call | to Envoy | message streamed | to Envoy |")
    print("|---|---|---|---|---|---|---|")
    columns: list[dict[str, float]] = []
    for load in (h2load, grpc_load, grpc_stream_load):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            if load is not h2load:
                upstream = stack.enter_context(grpc_upstream())
            else:
                upstream = free_port()
                action = f"direct_response: {{status: 200, body: {{inline_string: {BODY.decode()}}}}}"
                stack.enter_context(envoy(upstream, action, "", folder, core + 1)).wait_listening(upstream)
            ports = iter(free_ports(1 + 2 * len(forms)))
            port = next(ports)
            rest = CLUSTER.replace("@UPSTREAM@", str(upstream))
            children = {"Envoy": (envoy(port, "route: {cluster: upstream}", rest, folder, core), port)}
            for name, compiled in forms.items():
                for record in (False, True):
                    port = next(ports)
                    child = turnout(port, upstream, folder, core, record=record, compiled=compiled)
                    children[f"{name}, {'with the record' if record else 'routing only'}"] = (child, port)
            for child, port in children.values():
                stack.enter_context(child).wait_listening(port)
            columns.append(measure(children, load, options.count, options.rounds))
    for name in columns[0]:
        cells = [f"{column[name]:.1f} | {column[name] / column['Envoy']:.2f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
