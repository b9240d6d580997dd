"""Tokens and cookies among the replicas of one store, also after the store has lost its secrets."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from pathlib import Path

import httpx

from gateway.auth.principal import Authenticator
from gateway.control.app import ControlApp
from tests.support.harness import Harness


def replica(harness: Harness) -> httpx.AsyncClient:
    """A client of another process on the same store."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=ControlApp(harness)), base_url="http://turnout.test"
    )


async def reported(http: httpx.AsyncClient, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    return (await http.post("/-/feedback", json={"items": []}, headers=headers)).status_code


async def test_replicas_open_each_others_tokens_after_the_store_lost_its_secrets(
    harness: Harness, tmp_path: Path
) -> None:
    async def token(http: httpx.AsyncClient) -> str:
        made = await http.post("/-/feedback/token", json={}, headers={"x-api-key": "writer"})
        return str(made.json()["token"])

    async def log_in(http: httpx.AsyncClient) -> None:
        http.cookies.clear()
        assert (await http.post("/-/dashboard/login", json={"key": "reader"})).status_code == 204

    async with replica(harness) as one, replica(harness) as other:
        earlier = await token(one)
        await log_in(one)
        assert await reported(other, earlier) == 200
        await asyncio.to_thread(lose_secrets, tmp_path / "turnout.db")
        harness.clock.at += 2
        await log_in(other)
        assert await reported(one, await token(other)) == 200
        assert await reported(one, earlier) == 401  # sealed with a secret that is gone
        one.cookies = other.cookies
        assert (await one.get("/-/routes")).status_code == 200


def lose_secrets(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM secrets WHERE name <> 'decision-id'")
    connection.close()


async def test_a_token_has_one_spelling(harness: Harness) -> None:
    """Python's decoder skips what is not base64 and takes "+" for "-": a token had as many spellings as one liked."""
    async with replica(harness) as http:
        made = await http.post("/-/feedback/token", json={}, headers={"x-api-key": "writer"})
        token = made.json()["token"]
        while "-" not in token[3:]:
            token = (await http.post("/-/feedback/token", json={}, headers={"x-api-key": "writer"})).json()[
                "token"
            ]
        assert await reported(http, token) == 200
        assert await reported(http, token.replace("-", "+")) == 401
        for other in (token[:9] + "!" + token[9:], token + "A", token + "=", token[:9] + "\t" + token[9:]):
            assert await reported(http, other) == 401, other


async def test_a_key_beyond_ascii_gets_a_token_that_is_good(harness: Harness) -> None:
    key = "schlüssel".encode()
    known = harness.known.principal(b"writer", harness.now())
    harness.known = Authenticator({hashlib.sha256(key).digest(): known})
    async with replica(harness) as http:
        made = await http.post("/-/feedback/token", json={}, headers={b"x-api-key": key})
        assert await reported(http, made.json()["token"]) == 200
