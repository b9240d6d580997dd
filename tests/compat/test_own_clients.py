"""The clients of Gradio and BentoML through a gateway with the configuration of their page in docs/servers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.compat.environments import environment
from tests.compat.test_real_servers import served
from tests.docs.reader import blocks, wait_for
from tests.support.processes import GatewayProcess

SCRIPTS = Path(__file__).parent / "served"
USERS, CALLS = 8, 3


@contextmanager
def site(folder: Path, name: str, ready_path: str, edit: Callable[[str], str]) -> Iterator[GatewayProcess]:
    """Two versions of a server behind the configuration of its page, after ``edit``."""
    environment(name)
    (config,) = blocks(f"docs/servers/{name}.md", "yaml")
    config = "store: sqlite:///@DIR@/turnout.db\n" + edit(config).replace(":8080", ":@PORT@")
    with ExitStack() as stack:
        for port, factor in (("9001", "2"), ("9002", "3")):
            server = stack.enter_context(served(name, name, ready_path)(folder, factor))
            server.wait_ready(180)
            config = config.replace(f"http://127.0.0.1:{port}", server.url)
        yield stack.enter_context(GatewayProcess(folder, config))


def printed(name: str, *options: str) -> Any:
    """What the client's program ``served/NAME_calls.py`` prints."""
    python = str(environment(name) / "bin" / "python")
    command = [python, str(SCRIPTS / f"{name}_calls.py"), *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def decided(gateway: GatewayProcess, route: str, count: int) -> None:
    def variants() -> list[dict[str, Any]]:
        return list(httpx.get(f"{gateway.url}/-/routes/{route}").json()["variants"].values())

    wait_for(lambda: sum(v["served"] for v in variants()) == count, f"{count} calls are decisions")
    assert [v["errors"] for v in variants()] == [0, 0]


def test_gradio_shows_each_user_results_of_one_version(tmp_path: Path) -> None:
    """Both requests of an event reach one server, and only the first is a decision."""
    with site(tmp_path, "gradio", "/config", lambda text: text.replace("10%", "50%")) as gateway:
        found: list[list[float]] = printed("gradio", gateway.url, str(USERS), str(CALLS))
        assert {len(set(results)) for results in found} == {1}
        assert {results[0] for results in found} == {8.0, 12.0}
        decided(gateway, "app", USERS * CALLS)


def test_bentoml_serves_its_own_clients(tmp_path: Path) -> None:
    def edit(text: str) -> str:
        return text.replace("infer: /summarize", "infer: [/predict, /stream]").replace(
            "weight: 10%", "weight: 0%"
        )

    with site(tmp_path, "bentoml", "/readyz", edit) as gateway:
        found = printed("bentoml", gateway.url)
        assert found.pop("error") == "1 validation error for Input"
        assert found == {
            "whole": {"output": 8.0},
            "stream": "4.0 times 2 ",
            "ready": True,
            "async": {"output": 8.0},
        }
        decided(gateway, "summarize", 4)
