"""Which backends the log names when the gateway starts and they accept no connection."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from gateway.loops.first_contact import warn_unreachable
from gateway.transport.address import Address
from gateway.transport.balancer import Backend
from gateway.transport.endpoint import Endpoint
from gateway.transport.health import Health
from gateway.transport.limiter import ConcurrencyLimiter, Limit


async def test_an_address_that_accepts_no_connection_is_named(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    limiter = ConcurrencyLimiter(Limit(in_flight=1, waiting=1, wait=1.0))
    with socket.create_server(("127.0.0.1", 0)) as up, socket.socket() as down:
        down.bind(("127.0.0.1", 0))  # not listening
        ports = {"up": up.getsockname()[1], "down": down.getsockname()[1]}
        backends = {
            name: Backend(
                name,
                [Address(Endpoint("http", "127.0.0.1", port), loop)],
                limiter,
                random.Random(1).random,
                health=Health(name, lambda kind, data: None),
            )
            for name, port in ports.items()
        }
        await warn_unreachable(backends)
    (line,) = caplog.messages
    assert line.startswith(f"backend down: http://127.0.0.1:{ports['down']} accepts no connection (")
    assert line.endswith("see 'backends.down'")
