"""docs/servers/gradio.md: both requests of an event reach one server, and the first alone is a decision."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.compat.environments import environment
from tests.compat.test_real_servers import served
from tests.docs.reader import blocks, wait_for
from tests.support.processes import GatewayProcess

SCRIPT = Path(__file__).parent / "served" / "gradio_calls.py"
USERS, CALLS = 8, 3
PAGE = "docs/servers/gradio.md"


def test_each_user_gets_results_of_one_version(tmp_path: Path) -> None:
    python, start = environment("gradio") / "bin" / "python", served("gradio", "gradio", "/config")
    (config,) = blocks(PAGE, "yaml")
    config = config.replace("weight: 10%", "weight: 50%").replace(":8080", ":@PORT@")
    with ExitStack() as stack:
        for port, factor in (("9001", "2"), ("9002", "3")):
            server = stack.enter_context(start(tmp_path, factor))
            server.wait_ready(180)
            config = config.replace(f"http://127.0.0.1:{port}", server.url)
        gateway = stack.enter_context(
            GatewayProcess(tmp_path, f"store: sqlite:///@DIR@/turnout.db\n{config}")
        )
        ran = subprocess.run(
            [python, SCRIPT, gateway.url, str(USERS), str(CALLS)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        found: list[list[float]] = json.loads(ran.stdout.splitlines()[-1])
        assert {len(set(results)) for results in found} == {1}
        assert {results[0] for results in found} == {8.0, 12.0}

        def report() -> dict[str, Any]:
            variants: dict[str, Any] = httpx.get(f"{gateway.url}/-/routes/app").json()["variants"]
            return variants

        wait_for(
            lambda: sum(v["served"] for v in report().values()) == USERS * CALLS, "each call is a decision"
        )
        assert [v["errors"] for v in report().values()] == [0, 0]
