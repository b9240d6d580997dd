"""Clients as people use them: curl, httpx, nghttp2's h2load."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.wire.rig import Rig, Tls
from tests.wire.test_tls import contexts


def with_alpn(folder: Path) -> Tls:
    tls = contexts(folder)
    tls.gateway.set_alpn_protocols(["h2", "http/1.1"])
    return tls


RIG = {"tls": with_alpn}


@pytest.fixture
def authority(rig: Rig) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=rig.folder / "ca.pem")


def run(*words: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_httpx_chooses_http2_by_alpn(rig: Rig, authority: ssl.SSLContext) -> None:
    async with httpx.AsyncClient(http2=True, verify=authority) as client:
        for n in range(3):
            response = await client.post(f"https://localhost:{rig.port}/p/{n}", content=b"x" * 100_000)
            assert (response.http_version, response.status_code) == ("HTTP/2", 200)
            assert response.text == f"A|POST|/p/{n}|100000"
    assert len(rig.a.connections) == 1  # a body is complete with the bytes that it declares
    assert rig.requests[0].all("x-forwarded-proto") == [b"https"]


async def test_httpx_without_http2_is_served_on_the_same_port(rig: Rig, authority: ssl.SSLContext) -> None:
    async with httpx.AsyncClient(verify=authority) as client:
        response = await client.get(f"https://localhost:{rig.port}/p")
        assert (response.http_version, response.status_code) == ("HTTP/1.1", 200)


def test_curl_over_tls(rig: Rig) -> None:
    words = (
        "curl",
        "-sS",
        "--http2",
        "--cacert",
        str(rig.folder / "ca.pem"),
        "-w",
        "|%{http_version}|%{http_code}",
    )
    out = run(*words, "-d", "body", f"https://localhost:{rig.port}/p")
    assert out == "A|POST|/p|4|2|200"


@pytest.mark.parametrize("path", ["/p", "/large"])
def test_h2load_over_tls(rig: Rig, path: str) -> None:
    out = run("h2load", "-n", "300", "-c", "3", "-m", "20", f"https://localhost:{rig.port}{path}")
    assert re.search(r"300 total, 300 started, 300 done, 300 succeeded, 0 failed", out), out
    assert "Application protocol: h2" in out
