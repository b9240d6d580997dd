"""Prior knowledge: the same clients without TLS."""

from __future__ import annotations

import re

import httpx

from tests.http2.test_clients import run
from tests.wire.rig import Rig


async def test_httpx(rig: Rig) -> None:
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        response = await client.get(f"http://127.0.0.1:{rig.port}/p")
        assert (response.http_version, response.text) == ("HTTP/2", "A|GET|/p|0")


def test_curl(rig: Rig) -> None:
    words = ("curl", "-sS", "--http2-prior-knowledge", "-w", "|%{http_version}|%{http_code}")
    assert run(*words, f"http://127.0.0.1:{rig.port}/p") == "A|GET|/p|0|2|200"


def test_curl_asking_to_upgrade_is_served_as_http1(rig: Rig) -> None:
    words = ("curl", "-sS", "--http2", "-w", "|%{http_version}|%{http_code}")
    assert run(*words, f"http://127.0.0.1:{rig.port}/p") == "A|GET|/p|0|1.1|200"


def test_h2load(rig: Rig) -> None:
    out = run("h2load", "-n", "300", "-c", "2", "-m", "10", f"http://127.0.0.1:{rig.port}/p")
    assert re.search(r"300 total, 300 started, 300 done, 300 succeeded, 0 failed", out), out[-900:]
