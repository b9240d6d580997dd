"""`AsyncClient`: requests through a gateway, and rewards sent by a background task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack, cast

import httpx

from turnout.decision import Decision
from turnout.errors import FlushTimeout, Rejection, TurnoutError
from turnout.options import ClientOptions, RequestOptions
from turnout.outbox import Item, Outbox, batches, log, reported
from turnout.response import AsyncTransport, Response, decide_call, gateway_url, infer_body, transport_options
from turnout.sync import CLOSED, DECIDE, FEEDBACK


class AsyncClient(httpx.AsyncClient):
    """An ``httpx.AsyncClient`` for a gateway; arguments and behaviour as `turnout.Client`.

    ``on_rejected`` is called in the event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        buffer: int = 10_000,
        on_rejected: Callable[[Rejection], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        verify: Any = True,
        **options: Unpack[ClientOptions],
    ) -> None:
        inner = transport or httpx.AsyncHTTPTransport(verify=verify, **transport_options(options))
        self._outbox = Outbox(buffer, on_rejected)
        super().__init__(base_url=gateway_url(url), transport=AsyncTransport(inner, self._put), **options)
        if key:
            self.headers["x-api-key"] = key
        self._task: asyncio.Task[None] | None = None
        self._emptied = asyncio.Event()

    # Requests -------------------------------------------------------------------------------------------
    async def request(self, method: str, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.request``."""
        return cast("Response", await super().request(method, url, **options))

    async def get(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.get``."""
        return await self.request("GET", url, **options)

    async def post(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.post``."""
        return await self.request("POST", url, **options)

    async def put(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.put``."""
        return await self.request("PUT", url, **options)

    async def patch(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.patch``."""
        return await self.request("PATCH", url, **options)

    async def delete(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.delete``."""
        return await self.request("DELETE", url, **options)

    async def head(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.head``."""
        return await self.request("HEAD", url, **options)

    async def options(self, url: httpx.URL | str, **options: Unpack[RequestOptions]) -> Response:
        """As ``httpx.AsyncClient.options``."""
        return await self.request("OPTIONS", url, **options)

    async def send(self, request: httpx.Request, **options: Any) -> Response:
        """As ``httpx.AsyncClient.send``."""
        return cast("Response", await super().send(request, **options))

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: httpx.URL | str, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[Response]:
        """As ``httpx.AsyncClient.stream``."""
        async with super().stream(method, url, **options) as response:
            yield cast("Response", response)

    async def infer(
        self,
        model: str,
        inputs: dict[str, Any],
        *,
        version: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> Response:
        """As `turnout.Client.infer`."""
        place = f"/versions/{version}" if version is not None else ""
        return await self.post(f"/v2/models/{model}{place}/infer", json=infer_body(inputs), **options)

    async def decide(
        self,
        route: str,
        *,
        unit: str | int | None = None,
        features: Mapping[str, Any] | None = None,
        variant: str | None = None,
    ) -> Decision:
        """As `turnout.Client.decide`."""
        response = await self.post(DECIDE, **decide_call(route, unit, features, variant))
        return Decision.decided(route, response.raise_for_status().json(), self._put)

    # Rewards --------------------------------------------------------------------------------------------
    def decision(self, identity: str) -> Decision:
        """The decision with a known id, for example one that another process has stored."""
        return Decision(identity, _put=self._put)

    async def report(self, items: Sequence[Item]) -> dict[str, int]:
        """Send rewards and wait until they are durable; as `turnout.Client.report`.

        Raises:
            RewardsRejected: The gateway refused some; it took the others.
        """
        parts = batches(items)
        return reported(
            parts, [(await self._post_feedback(part)).raise_for_status().json() for part in parts]
        )

    async def flush(self, timeout: float = 30.0) -> None:
        """Wait until every reported reward is durable. Raises FlushTimeout and RewardsRejected."""
        if len(self._outbox):
            if self.is_closed:  # a task that tries on would never end
                raise FlushTimeout(f"{len(self._outbox)} rewards are unsent, and the client is closed")
            self._wake()
            try:
                await asyncio.wait_for(self._emptied.wait(), timeout)
            except TimeoutError:
                raise FlushTimeout(f"{len(self._outbox)} rewards are unsent after {timeout:g} s") from None
        self._outbox.raise_rejected()

    async def aclose(self, timeout: float = 30.0) -> None:
        """`flush`, then close every connection. Raises as `flush` does."""
        try:
            await self.flush(timeout)
        finally:
            await self._stop()
            await super().aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            await self.flush()
        except TurnoutError as error:
            if exc_type is None:
                raise
            log.warning("%s", error)  # the exception that ended the block is the one to see
        finally:
            await self._stop()
            await super().__aexit__(exc_type, exc_value, traceback)

    def _put(self, item: Item) -> None:
        if self.is_closed:
            raise RuntimeError(CLOSED)
        self._outbox.put(item)
        self._wake()

    def _wake(self) -> None:
        if len(self._outbox) and (self._task is None or self._task.done()):
            self._emptied.clear()
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Send until the outbox is empty; the next reward starts another task."""
        while len(self._outbox):
            batch = self._outbox.take()
            try:
                response = await self._post_feedback(batch)
            except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed meanwhile
                delay = self._outbox.settle(len(batch), 0, b"", None)
            except Exception:  # noqa: BLE001 - of a hook, an `auth` or a transport of the program
                log.exception("rewards could not be sent; trying again")
                delay = self._outbox.settle(len(batch), 0, b"", None)
            else:
                retry_after = response.headers.get("retry-after")
                delay = self._outbox.settle(len(batch), response.status_code, response.content, retry_after)
            await asyncio.sleep(delay)
        self._emptied.set()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _post_feedback(self, items: list[Item]) -> Response:
        return await self.post(FEEDBACK, json={"items": items})
