"""The program in docs/decide.md runs as it stands there, and asynchronously."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess
from turnout import AsyncClient

PAGE = Path(__file__).parents[2] / "docs/decide.md"
LISTEN = "listen: 127.0.0.1:@PORT@\nstore: sqlite:///@DIR@/turnout.db\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    (configuration,) = blocks("yaml")
    with GatewayProcess(tmp_path_factory.mktemp("decide"), LISTEN + configuration) as process:
        yield process


def rewards(gateway: GatewayProcess) -> float:
    variants = httpx.get(f"{gateway.url}/-/routes/greeting").json()["variants"]
    return sum(float(v["rewards"]["accepted"]["count"]) for v in variants.values())


def test_the_program_runs_as_it_stands(gateway: GatewayProcess) -> None:
    (program,) = blocks("python")
    program = program.replace("http://127.0.0.1:8080", gateway.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    variant, propensity, prompt = done.stdout.split(maxsplit=2)
    assert (
        prompt == {"plain": "Answer in one sentence.\n", "warm": "Answer warmly, in one sentence.\n"}[variant]
    )
    assert 0.05 <= float(propensity) <= 0.95
    wait_for(lambda: rewards(gateway) == 1)


def test_a_route_without_match_proxies_nothing(gateway: GatewayProcess) -> None:
    response = httpx.post(f"{gateway.url}/greeting", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_route")
    assert httpx.get(f"{gateway.url}/-/readyz").status_code == 200
    route = httpx.get(f"{gateway.url}/-/routes/greeting").json()
    assert route["health"] == {"plain": [], "warm": []}


async def test_the_asynchronous_client_decides_alike(gateway: GatewayProcess) -> None:
    async with AsyncClient(gateway.url) as client:
        first = await client.decide("greeting", unit="ada")
        again = await client.decide("greeting", unit="ada", variant=None, features={"unknown": 1})
        forced = await client.decide("greeting", unit="ada", variant="warm")
        assert again.variant == first.variant
        assert (forced.variant, forced.propensity) == ("warm", 1.0)
        assert (first.route, first.epoch) == ("greeting", again.epoch)
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await client.decide("nowhere")
