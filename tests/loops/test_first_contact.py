"""Which backends the log names when the gateway starts and they accept no connection."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from gateway.loops import first_contact
from gateway.loops.first_contact import warn_unreachable
from gateway.transport.address import Address
from gateway.transport.balancer import Backend
from gateway.transport.endpoint import Endpoint
from gateway.transport.health import Health
from gateway.transport.limiter import ConcurrencyLimiter, Limit


def backend(name: str, host: str, port: int) -> Backend:
    loop = asyncio.get_running_loop()
    limiter = ConcurrencyLimiter(Limit(in_flight=1, waiting=1, wait=1.0))
    address = Address(Endpoint("http", host, port), loop)
    health = Health(name, lambda kind, data: None)
    return Backend(name, [address], limiter, random.Random(1).random, health=health)


async def test_an_address_that_accepts_no_connection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as up, socket.socket() as down:
        down.bind(("127.0.0.1", 0))  # not listening
        ports = {"up": up.getsockname()[1], "down": down.getsockname()[1]}
        await warn_unreachable({name: backend(name, "127.0.0.1", port) for name, port in ports.items()})
    (line,) = caplog.messages
    assert line.startswith(f"backend down: http://127.0.0.1:{ports['down']} accepts no connection (")
    assert line.endswith("see 'backends.down'")


async def test_a_slow_resolver_is_asked_for_one_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def never(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    monkeypatch.setattr(first_contact, "TIMEOUT_S", 0.01)
    await warn_unreachable({f"b{k}": backend(f"b{k}", f"slow{k}.example", 80) for k in range(50)})
    assert asked == ["slow0.example"]
    assert caplog.messages[0].startswith(
        "backend b0: http://slow0.example:80 accepts no connection (its name"
    )
    assert caplog.messages[1:] == ["name resolution is slow: 49 more addresses were not tried"]
