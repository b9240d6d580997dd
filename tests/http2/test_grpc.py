"""gRPC through the gateway, with grpcio on both sides: every kind of call, statuses, deadlines, metadata."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest

from benchmarks.children import free_port
from gateway.transport.http2_address import Http2Address
from tests.http2.h2c import outcome
from tests.http2.inference import OWN_CONNECTION
from tests.wire.rig import Rig

raw: dict[str, Any] = {"request_deserializer": None, "response_serializer": None}


class Servicer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """``test.Echo``: messages are bytes; what to do stands in the metadata."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.seen: list[dict[str, Any]] = []
        self.cancelled = threading.Event()

    def start(self) -> None:
        self.server = grpc.server(
            ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 1 << 26)]
        )
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details: Any) -> Any:
        method = details.method.rsplit("/", 1)[1]
        handlers: dict[str, Any] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Download": grpc.unary_stream_rpc_method_handler(self.download),
            "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
        }
        return handlers.get(method)

    def note(self, context: Any) -> dict[str, Any]:
        found = {"metadata": dict(context.invocation_metadata()), "left": context.time_remaining()}
        self.seen.append(found)
        much = "v" * int(found["metadata"].get("x-much", 0))
        context.set_trailing_metadata(
            (("x-served-by", self.name.decode()), ("data-bin", b"\0\1\2"), ("x-much", much))
        )
        code = found["metadata"].get("x-fail")
        if code and found["metadata"].get("x-fail-at", self.name.decode()) == self.name.decode():
            context.abort(grpc.StatusCode[code], f"told to: {code} é")
        return found

    def unary(self, request: bytes, context: Any) -> bytes:
        self.note(context)
        return self.name + b":" + request

    def download(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.note(context)
        for n in range(int(request)):
            yield b"%d" % n
        if fail := dict(context.invocation_metadata()).get("x-fail-late"):
            context.abort(grpc.StatusCode[fail], "late")

    def upload(self, requests: Iterator[bytes], context: Any) -> bytes:
        self.note(context)
        return b"%d" % sum(len(request) for request in requests)

    def chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.note(context)
        for request in requests:
            yield request[::-1]

    def hang(self, request: bytes, context: Any) -> bytes:
        self.note(context)
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(60)
        return b""


ONE, TWO = Servicer(b"one"), Servicer(b"two")
BACKENDS = """\
  one: {{url: "h2c://127.0.0.1:{}", ejection: null}}
  two: {{url: "h2c://127.0.0.1:{}", ejection: null}}
  gone: {{url: "h2c://127.0.0.1:{}", ejection: null}}
"""
ROUTES = """\
  echo:
    match: {grpc: test.Echo}
    variants: {v1: {backend: one}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    body_limit: 64MiB
  falls:
    match: {grpc: test.Falls/Unary}
    variants: {v1: {backend: one}, v2: {backend: two}}
    policy: {type: single, variant: v1}
    fallback: [v2]
    retry: {attempts: 1}
  sticky:
    match: {grpc: test.Sticky}
    unit: {header: x-user-id}
    variants: {v1: {backend: one}, v2: {backend: two}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  down:
    match: {grpc: test.Down}
    variants: {v1: {backend: gone}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
"""


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    ONE.start()
    TWO.start()
    backends = BACKENDS.format(ONE.port, TWO.port, free_port())
    found = Rig(tmp_path_factory.mktemp("rig"), backends=backends, routes=ROUTES)
    found.start()
    yield found
    for each in (ONE, TWO):  # before the rig, whose loop waits for their connections
        each.server.stop(None).wait()
    found.until(lambda: not any(address.sessions.all for address in http2_addresses(found)))
    found.stop()


def http2_addresses(rig: Rig) -> list[Http2Address]:
    return [found for found in rig.gateway.registry.addresses.values() if isinstance(found, Http2Address)]


@pytest.fixture
def channel(rig: Rig) -> Iterator[grpc.Channel]:
    ONE.seen.clear()
    TWO.seen.clear()
    options = [("grpc.max_receive_message_length", 1 << 26), OWN_CONNECTION]
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options=options) as found:
        yield found
    rig.until(lambda: not rig.worker.active)


def call(channel: grpc.Channel, path: str, request: bytes = b"hi", **options: Any) -> tuple[bytes, Any]:
    answer, info = channel.unary_unary(path).with_call(request, timeout=options.pop("timeout", 20), **options)
    return answer, info


def failure(act: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        act()
    return caught.value


def test_unary(channel: grpc.Channel) -> None:
    answer, info = call(channel, "/test.Echo/Unary", metadata=(("x-user-id", "u1"), ("k-bin", b"\xff\0")))
    assert answer == b"one:hi"
    leading, trailing = dict(info.initial_metadata()), dict(info.trailing_metadata())
    assert {"x-decision-id", "x-variant", "x-request-id"} <= leading.keys()
    assert (trailing["x-served-by"], trailing["data-bin"]) == ("one", b"\0\1\2")
    (seen,) = ONE.seen
    assert (seen["metadata"]["x-user-id"], seen["metadata"]["k-bin"]) == ("u1", b"\xff\0")


@pytest.mark.parametrize("size", [0, 1, 16_384, 1 << 22])
def test_unary_of_any_size(channel: grpc.Channel, size: int) -> None:
    assert call(channel, "/test.Echo/Unary", b"x" * size)[0] == b"one:" + b"x" * size


def test_server_streaming(channel: grpc.Channel) -> None:
    answers = list(channel.unary_stream("/test.Echo/Download")(b"2000", timeout=60))
    assert answers == [b"%d" % n for n in range(2000)]


def test_client_streaming(channel: grpc.Channel) -> None:
    sent = (b"x" * 10_000 for _ in range(300))
    assert channel.stream_unary("/test.Echo/Upload")(sent, timeout=60) == b"3000000"


def test_both_ways_at_the_same_time(channel: grpc.Channel) -> None:
    """Each answer is here before the next request is made."""
    answered = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for n in range(50):
            assert answered.acquire(timeout=60)
            yield b"%02d" % n

    answers = []
    for answer in channel.stream_stream("/test.Echo/Chat")(requests(), timeout=60):
        answers.append(answer)
        answered.release()
    assert answers == [(b"%02d" % n)[::-1] for n in range(50)]


def test_many_calls_at_the_same_time(channel: grpc.Channel) -> None:
    futures = [channel.unary_unary("/test.Echo/Unary").future(b"%d" % n, timeout=60) for n in range(300)]
    assert [future.result() for future in futures] == [b"one:%d" % n for n in range(300)]


@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "INTERNAL", "DATA_LOSS", "ABORTED"]
)
def test_statuses_of_the_backend_pass(channel: grpc.Channel, code: str) -> None:
    error = failure(lambda: call(channel, "/test.Echo/Unary", metadata=(("x-fail", code),)))
    assert (error.code().name, error.details()) == (code, f"told to: {code} é")
    assert dict(error.trailing_metadata())["x-served-by"] == "one"


@pytest.mark.parametrize(
    ("code", "status", "charged"), [("UNAVAILABLE", 503, "backend_status"), ("INVALID_ARGUMENT", 400, "")]
)
def test_a_status_after_messages_passes(
    rig: Rig, channel: grpc.Channel, code: str, status: int, charged: str
) -> None:
    stream = channel.unary_stream("/test.Echo/Download")(b"3", timeout=60, metadata=(("x-fail-late", code),))
    answers: list[bytes] = []
    error = failure(lambda: answers.extend(stream))
    assert (answers, error.code().name) == ([b"0", b"1", b"2"], code)
    found = outcome(rig, dict(stream.initial_metadata())["x-request-id"])
    assert (found["status"], found["error"]) == (status, charged)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN"])
def test_faults_of_the_backend_fall_back(channel: grpc.Channel, code: str) -> None:
    answer, info = call(channel, "/test.Falls/Unary", metadata=(("x-fail-at", "one"), ("x-fail", code)))
    assert answer == b"two:hi"
    assert dict(info.initial_metadata())["x-variant"] == "v2"


def test_faults_of_the_client_do_not(channel: grpc.Channel) -> None:
    metadata = (("x-fail-at", "one"), ("x-fail", "INVALID_ARGUMENT"))
    error = failure(lambda: call(channel, "/test.Falls/Unary", metadata=metadata))
    assert error.code().name == "INVALID_ARGUMENT"
    assert not TWO.seen


def test_errors_of_the_gateway_are_statuses(channel: grpc.Channel) -> None:
    error = failure(lambda: call(channel, "/nowhere.Service/Method"))
    assert error.code().name == "UNIMPLEMENTED"
    assert error.details().startswith("unknown_route: ")
    error = failure(lambda: call(channel, "/test.Echo/" + "m" * 20_000))
    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert error.details().startswith("target_too_long: ")
    error = failure(lambda: call(channel, "/test.Down/Unary"))
    assert error.code().name == "UNAVAILABLE"
    assert error.details().startswith("backend_connect: ")
    assert "x-decision-id" in dict(error.initial_metadata()) | dict(error.trailing_metadata())


def test_a_client_of_several_addresses_names_them_all(rig: Rig) -> None:
    with grpc.insecure_channel(
        f"ipv4:127.0.0.1:{rig.port},127.0.0.1:{rig.port}", options=[OWN_CONNECTION]
    ) as several:
        assert call(several, "/test.Echo/Unary")[0] == b"one:hi"


def test_only_post_reaches_a_service(rig: Rig) -> None:
    """A gRPC server resets the stream of any other method, which would count as its failure."""
    assert httpx.get(f"http://127.0.0.1:{rig.port}/test.Echo/Unary").status_code == 404


def test_a_deadline_is_passed_on_and_kept(channel: grpc.Channel) -> None:
    call(channel, "/test.Echo/Unary", timeout=60)
    assert 40 < ONE.seen[0]["left"] < 61
    ONE.cancelled.clear()
    began = time.monotonic()
    error = failure(lambda: call(channel, "/test.Echo/Hang", timeout=0.5))
    assert error.code().name == "DEADLINE_EXCEEDED"
    assert time.monotonic() - began < 10
    assert ONE.cancelled.wait(60)


def test_cancelling_reaches_the_backend(channel: grpc.Channel) -> None:
    ONE.cancelled.clear()
    future = channel.unary_unary("/test.Echo/Hang").future(b"", timeout=60)
    deadline = time.monotonic() + 60
    while not ONE.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    future.cancel()
    assert ONE.cancelled.wait(60)


@pytest.mark.parametrize(
    ("metadata", "code"),
    [(("x-a", "v" * 90_000), "RESOURCE_EXHAUSTED"), (("x-much", "90000"), "UNAVAILABLE")],
    ids=["of the request", "of the response"],
)
def test_metadata_over_the_limit_fails_its_call_alone(
    channel: grpc.Channel, metadata: tuple[str, str], code: str
) -> None:
    """Other calls share the connection."""
    chat = channel.stream_stream("/test.Echo/Chat")
    go_on = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"ab"
        assert go_on.wait(60)
        yield b"cd"

    answers = chat(requests(), timeout=60)
    assert next(answers) == b"ba"
    assert failure(lambda: call(channel, "/test.Echo/Unary", metadata=(metadata,))).code().name == code
    go_on.set()
    assert list(answers) == [b"dc"]


def test_stickiness_by_metadata(channel: grpc.Channel) -> None:
    def variant(user: str) -> str:
        _, info = call(channel, "/test.Sticky/Unary", metadata=(("x-user-id", user),))
        return str(dict(info.initial_metadata())["x-variant"])

    first = {f"u{n}": variant(f"u{n}") for n in range(20)}
    assert set(first.values()) == {"v1", "v2"}
    assert {user: variant(user) for user in first} == first
