"""`Client`: requests through a gateway, and rewards sent by a background thread."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Unpack, cast

import httpx

from turnout.decision import Decision
from turnout.errors import FlushTimeout, Rejection, TurnoutError
from turnout.options import ClientOptions, RequestOptions
from turnout.outbox import Item, Outbox, batches, log, reported
from turnout.response import Response, Transport, decide_call, gateway_url, infer_body, transport_options

FEEDBACK = "/-/feedback"
DECIDE = "/-/decide"
LAST_FLUSH_S = 5.0
IDLE_CHECK_S = 10.0
"""How often a sender without rewards looks whether its client still exists."""
CLOSED = "the client is closed; report rewards before that"


class Client(httpx.Client):
    """An ``httpx.Client`` for a gateway: responses carry ``.decision``, and decisions take rewards.

    Args:
        url: The gateway, for example ``http://127.0.0.1:8080``.
        key: An API key with the scopes ``infer`` and ``feedback``.
        buffer: Most rewards in memory; `Decision.reward` raises `BufferFull` beyond.
        on_rejected: Called (in the background thread) with each reward that the gateway refuses. Refused
            rewards are also raised by the next `flush` or `close`.
        options: Those of ``httpx.Client``, such as ``timeout`` or ``verify``.

    Raises:
        ValueError: ``url`` is not a URL, or ``buffer`` is less than 1.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        buffer: int = 10_000,
        on_rejected: Callable[[Rejection], None] | None = None,
        transport: httpx.BaseTransport | None = None,
        verify: Any = True,
        **options: Unpack[ClientOptions],
    ) -> None:
        network = transport_options(options)

        def connections() -> httpx.BaseTransport:
            return transport or httpx.HTTPTransport(verify=verify, **network)

        base, outbox = gateway_url(url), Outbox(buffer, on_rejected)
        super().__init__(base_url=base, transport=Transport(connections(), self._put, connections), **options)
        if key:
            self.headers["x-api-key"] = key
        self._sender = _Sender(self._post_feedback, outbox)
        # A process that ends without close() still sends what it reported; weak, so that clients can go.
        atexit.register(_last_flush, weakref.ref(self))

    # Requests -------------------------------------------------------------------------------------------
    def request(self, method: str, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.request``."""
        return cast("Response", super().request(method, url, **options))

    def get(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.get``."""
        return self.request("GET", url, **options)

    def post(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.post``."""
        return self.request("POST", url, **options)

    def put(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.put``."""
        return self.request("PUT", url, **options)

    def patch(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.patch``."""
        return self.request("PATCH", url, **options)

    def delete(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.delete``."""
        return self.request("DELETE", url, **options)

    def head(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.head``."""
        return self.request("HEAD", url, **options)

    def options(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.Client.options``."""
        return self.request("OPTIONS", url, **options)

    def send(self, request: httpx.Request, **options: Any) -> Response:
        """As ``httpx.Client.send``."""
        return cast("Response", super().send(request, **options))

    @contextlib.contextmanager
    def stream(
        self, method: str, url: httpx.URL | str, **options: Unpack[RequestOptions]
    ) -> Iterator[Response]:
        """As ``httpx.Client.stream``."""
        with super().stream(method, url, **options) as response:
            yield cast("Response", response)

    def infer(
        self,
        model: str,
        inputs: dict[str, Any],
        *,
        version: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> Response:
        """Ask a model of the Open Inference Protocol (Triton, MLServer, KServe, the bundled server).

        Args:
            model: The name in the path, ``/v2/models/NAME/infer``.
            inputs: Tensor name → numpy array or nested list.
            version: ``/versions/VERSION``, if the client is to name one.
        """
        place = f"/versions/{version}" if version is not None else ""
        return self.post(f"/v2/models/{model}{place}/infer", json=infer_body(inputs), **options)

    def decide(
        self,
        route: str,
        *,
        unit: str | int | None = None,
        features: Mapping[str, Any] | None = None,
        variant: str | None = None,
    ) -> Decision:
        """Ask for the variant of a route without sending a request through it.

        Args:
            route: Its name in the configuration.
            unit: Stays on one variant, the same as through the route; None: the decision is drawn.
            features: Of a bandit with features, by name.
            variant: Forces this one; needs a key with the scope ``force-variant``.

        Returns:
            The decision with `Decision.variant` and `Decision.payload`; it takes rewards like any other.

        Raises:
            httpx.HTTPError: The gateway could not be reached, or responded with an error status.
        """
        found = self.post(DECIDE, **decide_call(route, unit, features, variant)).raise_for_status().json()
        return Decision.decided(route, found, self._put)

    # Rewards --------------------------------------------------------------------------------------------
    def decision(self, identity: str) -> Decision:
        """The decision with a known id, for example one that another process has stored."""
        return Decision(identity, _put=self._put)

    def report(self, items: Sequence[Item]) -> dict[str, int]:
        """Send rewards and wait until they are durable.

        Args:
            items: Objects with ``decision_id``, ``metric``, ``value`` (None retracts) and perhaps ``tags``.

        Returns:
            Numbers of ``accepted``, ``duplicates`` and ``updated`` rewards.

        Raises:
            RewardsRejected: The gateway refused some of them; the others are durable.
            httpx.HTTPError: The gateway could not be reached, or responded with an error status. Earlier parts of
                500 are durable then; the same report may be sent again.
        """
        parts = batches(items)
        return reported(parts, [self._post_feedback(part).raise_for_status().json() for part in parts])

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until every reported reward is durable.

        Raises:
            FlushTimeout: Some are still unsent after ``timeout`` seconds; they stay in the buffer.
            RewardsRejected: The gateway refused some since the last flush.
        """
        self._sender.flush(timeout)

    def close(self, timeout: float = 30.0) -> None:
        """`flush`, then close every connection. Raises as `flush` does."""
        try:
            self._sender.flush(timeout)
        finally:
            self._sender.stop()
            super().close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            self._sender.flush(30.0)
        except TurnoutError as error:
            if exc_type is None:
                raise
            log.warning("%s", error)  # the exception that ended the block is the one to see
        finally:
            self._sender.stop()
            super().__exit__(exc_type, exc_value, traceback)

    def _put(self, item: Item) -> None:
        self._sender.put(item)

    def _post_feedback(self, items: list[Item]) -> Response:
        return self.post(FEEDBACK, json={"items": items})


class _Sender:
    """The thread that empties an outbox; started by the first reward, and again after a fork."""

    def __init__(self, post: Callable[[list[Item]], httpx.Response], outbox: Outbox) -> None:
        # Weak, or the thread would keep a forgotten client alive; but see `_unsent`.
        self._post = weakref.WeakMethod(post)
        self._outbox = outbox
        self._ended = False
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._pid = 0
        self._unsent: Callable[[list[Item]], httpx.Response] | None = None
        """Keeps a forgotten client alive until its rewards are sent; without it nothing could send them."""

    def put(self, item: Item) -> None:
        self._leave_to_parent()
        with self._changed:
            if self._ended:
                raise RuntimeError(CLOSED)
            self._outbox.put(item)
            self._unsent = self._post()
            if not self._pid:
                threading.Thread(target=self._run, name="turnout-rewards", daemon=True).start()
                self._pid = os.getpid()  # if no thread can be started, the next reward tries again
            self._changed.notify_all()

    def _leave_to_parent(self) -> None:
        """Begin again in a forked child, which has neither the thread nor its lock's owner."""
        if self._pid not in (0, os.getpid()):
            self._outbox = Outbox(self._outbox.capacity, self._outbox._on_rejected)
            self._reset()

    def flush(self, timeout: float) -> None:
        self._leave_to_parent()
        deadline = monotonic() + timeout
        with self._changed:
            while len(self._outbox):
                left = deadline - monotonic()
                if left <= 0 or self._ended:
                    raise FlushTimeout(f"{len(self._outbox)} rewards are unsent after {timeout:g} s")
                self._changed.wait(min(left, IDLE_CHECK_S))  # a lock refuses an infinite time
            self._outbox.raise_rejected()

    def stop(self) -> None:
        self._leave_to_parent()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not len(self._outbox) and not self._ended:
                    self._unsent = None
                    self._changed.wait(IDLE_CHECK_S)
                    self._ended = self._ended or self._post() is None
                if self._ended:
                    return
                batch = self._outbox.take()
            status, body, retry_after = self._send(batch)
            with self._changed:
                delay = self._outbox.settle(len(batch), status, body, retry_after)
                self._changed.notify_all()
                until = monotonic() + delay
                while not self._ended and (left := until - monotonic()) > 0:
                    self._changed.wait(left)

    def _send(self, batch: list[Item]) -> tuple[int, bytes, str | None]:
        post = self._post()
        if post is None:
            self._ended = True
            return 0, b"", None
        try:
            response = post(batch)
        except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed meanwhile
            return 0, b"", None
        except Exception:  # noqa: BLE001 - of a hook, an `auth` or a transport of the program: this thread is the only one
            log.exception("rewards could not be sent; trying again")
            return 0, b"", None
        return response.status_code, response.content, response.headers.get("retry-after")


def _last_flush(client: weakref.ref[Client]) -> None:
    found = client()
    if found is None or found.is_closed:
        return
    try:
        found.close(LAST_FLUSH_S)
    except TurnoutError as error:
        log.warning("%s", error)
