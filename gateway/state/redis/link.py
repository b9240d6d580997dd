"""The connection: addresses, keys, scripts, and plain words for what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as ConnectionLost,
)

from gateway.record.page import BadPage
from gateway.state.base import StoreUnavailable
from gateway.state.redis.script import Script

_TIMEOUT_S: Final = 5.0
_GLOBAL: Final = "."
_MAX_CONNECTIONS: Final = 48
"""At the same time; redis-py's pool has room for a hundred."""
_PIPELINE_COMMANDS: Final = 500
"""Commands in one pipeline."""


class Link:
    """One Redis or Redis Cluster.

    In addition to what redis-py knows, the address may say ``prefix=`` (of every key; "turnout") and
    ``replicas=N``: a reward is acknowledged only once N replicas have it (`WAIT`; not with a cluster).
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.prefix = query.pop("prefix", "turnout")
        self.replicas = int(query.pop("replicas", "0"))
        self.shown = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"
        """The address without its password, for messages."""
        scheme, _, kind = parts.scheme.partition("+")
        self._address = urlunsplit((scheme, parts.netloc, parts.path, urlencode(query), ""))
        self._is_cluster = kind == "cluster"
        self._connected: Redis | RedisCluster | None = None
        self._gate = asyncio.Semaphore(_MAX_CONNECTIONS)
        """Callers wait here; in the client's own pool they would fail."""
        self._dropping: asyncio.Task[None] | None = None
        self.breaks = 0
        """How often a connection was lost, or a primary had become a replica: the server may be another one since."""

    @property
    def _client(self) -> Redis | RedisCluster:
        if self._connected is None:
            self._connected = _client(self._address, cluster=self._is_cluster)
        return self._connected

    async def close(self) -> None:
        """Closes the connections; a later command opens new ones."""
        client, self._connected = self._connected, None
        if self._dropping is not None:
            await self._dropping
        if client is not None:
            await client.aclose()

    # Keys -----------------------------------------------------------------------------------
    def of_route(self, route: str) -> str:
        """What all keys of a route begin with; in braces, so that they share a slot."""
        tag = route.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{self.prefix}:{{{tag}}}"

    @property
    def of_all(self) -> str:
        """What the keys of no route begin with."""
        return f"{self.prefix}:{{{_GLOBAL}}}-"

    # Commands -------------------------------------------------------------------------------
    async def command(self, *parts: Any) -> Any:
        """One command; raises StoreUnavailable."""
        with self.plainly():
            async with self._gate:
                return await cast("Awaitable[Any]", self._client.execute_command(*parts))

    async def of_server(self, *parts: Any) -> Any:
        """One command about a server itself; of a cluster, about any of its nodes."""
        with self.plainly():
            client: Any = self._client
            if not isinstance(client, RedisCluster):
                return await client.execute_command(*parts)
            await client.initialize()
            return await client.execute_command(*parts, target_nodes=client.get_random_node())

    async def commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands on keys of one slot, in few round trips, not atomic."""
        found: list[Any] = []
        with self.plainly():
            for at in range(0, len(commands), _PIPELINE_COMMANDS):
                pipeline = self._pipeline()
                for command in commands[at : at + _PIPELINE_COMMANDS]:
                    pipeline.execute_command(*command)
                async with self._gate:
                    found += await pipeline.execute()
        return found

    async def run(self, script: Script, base: str, *arguments: Any, wait: bool = False) -> Any:
        """One script on the keys that begin with ``base``; with ``wait``, once the replicas have it too."""
        async with self._gate:
            return await self._run_either(script, base, arguments, wait)

    async def _run_either(self, script: Script, base: str, arguments: tuple[Any, ...], wait: bool) -> Any:
        with self.plainly():
            try:
                return await self._run(("EVALSHA", script.digest, 1, base, *arguments), wait)
            # The server has restarted, or is another one; EVAL makes it known for the next time.
            except NoScriptError:
                return await self._run(("EVAL", script.source, 1, base, *arguments), wait)

    async def _run(self, command: tuple[Any, ...], wait: bool) -> Any:
        if not wait or not self.replicas:
            return await cast("Awaitable[Any]", self._client.execute_command(*command))
        pipeline = self._pipeline()
        pipeline.execute_command(*command)
        # On the connection of the write: WAIT is about the writes of its own connection. Half the socket's time.
        pipeline.execute_command("WAIT", self.replicas, int(_TIMEOUT_S * 500))
        result, replicas = await pipeline.execute()
        if replicas < self.replicas:
            raise StoreUnavailable(
                f"Only {replicas} of the {self.replicas} replicas that 'replicas=' asks for took a write of the "
                f"store {self.shown}; see that they are up, or ask for fewer."
            )
        return result

    def _pipeline(self) -> Any:
        client: Any = self._client
        return client.pipeline() if isinstance(client, RedisCluster) else client.pipeline(transaction=False)

    # Failures -------------------------------------------------------------------------------
    @contextmanager
    def plainly(self) -> Iterator[None]:
        """Turns what the client raises into a StoreUnavailable that says what to do.

        Raises:
            StoreUnavailable: In place of what the client raises.
        """
        try:
            yield
        except (RedisError, OSError, TimeoutError, BadPage) as error:
            if isinstance(error, ConnectionLost | ReadOnlyError):
                self.breaks += 1
                self._drop_idle()
            raise StoreUnavailable(f"The store {self.shown} {_advice(error)}") from error

    def _drop_idle(self) -> None:
        """Closes connections that rest: after a restart of the server each would fail one more command, and to a
        primary that became a replica every command, though its address leads to the new primary."""
        client = self._connected
        if isinstance(client, Redis) and (self._dropping is None or self._dropping.done()):
            self._dropping = asyncio.create_task(_disconnect(client))


async def _disconnect(client: Redis) -> None:
    with suppress(RedisError, OSError):
        await client.connection_pool.disconnect(inuse_connections=False)


def _client(address: str, *, cluster: bool) -> Redis | RedisCluster:
    options: dict[str, Any] = {"socket_connect_timeout": 2.0, "socket_timeout": _TIMEOUT_S}
    if cluster:
        return RedisCluster.from_url(address, **options)
    made: Redis = Redis.from_url(address, health_check_interval=30, **options)
    return made


def _advice(error: Exception) -> str:
    text = str(error).rstrip(".")
    if isinstance(error, AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        return f"refuses the credentials: {text}. Put user and password into its address."
    if isinstance(error, OutOfMemoryError):
        return "is out of memory. Raise its 'maxmemory', or shorten 'record.retention'."
    if isinstance(error, ReadOnlyError):
        return "is a read-only replica. Give the address of the primary."
    if isinstance(error, BadPage):
        return f"holds a damaged page of the record: {text}."
    if isinstance(error, ResponseError):
        return f"refused a command: {text}."
    return (
        f"can't be reached: {text or type(error).__name__}. See that it is up and that its address is right."
    )
