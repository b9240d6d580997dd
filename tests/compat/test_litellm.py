"""LiteLLM's SDK through a gateway with keys: OpenAI, Azure OpenAI (`api-key`) and Anthropic, with tokens and cost."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from gateway.config.apikey import key_hash, new_secret
from tests.compat.environments import environment
from tests.support.processes import GatewayProcess, ModuleProcess

SCRIPT = Path(__file__).parent / "litellm_client.py"
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
auth:
  accept: api-key
  keys: [{id: app, hash: "@HASH@", scopes: [infer, read]}]
metrics:
  output_tokens: {type: count, goal: minimize, usage: output_tokens}
  cost: {type: real, goal: minimize, minimum: 0, usage: cost}
backends:
  llm: {url: "@LLM@"}
routes:
  llm:
    match: {path: /v1, protocol: [openai, anthropic]}
    usage: true
    variants: {v1: {backend: llm, price: {input: 1, output: 10}}}
    policy: {type: single, variant: v1}
  azure:
    match: {path: /openai/deployments/m, protocol: openai}
    usage: true
    variants: {v1: {backend: llm, rewrite: {path: /v1}, price: {input: 1, output: 10}}}
    policy: {type: single, variant: v1}
"""


def rewards(url: str, key: str, route: str, count: int) -> Any:
    """The values of the route's variant once there are ``count``, or after a while."""
    end = time.monotonic() + 60
    while True:
        report = httpx.get(f"{url}/-/routes/{route}", headers={"x-api-key": key}).json()
        found = report["variants"]["v1"]["rewards"]
        if found.get("cost", {}).get("count", 0) >= count or time.monotonic() > end:
            return found
        time.sleep(0.1)


def test_what_litellm_asks_for(tmp_path: Path) -> None:
    python, key = str(environment("litellm") / "bin" / "python"), new_secret()
    with ExitStack() as stack:
        server = stack.enter_context(ModuleProcess("tests.compat.llm", says="sound"))
        server.wait_ready()
        config = CONFIG.replace("@LLM@", server.url).replace("@HASH@", key_hash(key))
        gateway = stack.enter_context(GatewayProcess(tmp_path, config))
        command, env = (
            [python, str(SCRIPT), gateway.url, key],
            {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout.splitlines()[-1])
        assert found.pop("wrong key") == "AuthenticationError"
        assert found.pop("embeddings") == 2
        assert len(found) == 6
        assert all(text.startswith("sound: an answer to ") for text in found.values()), found
        counts = {"llm": 5, "azure": 2}  # the embeddings too
        for route, count in counts.items():
            values = rewards(gateway.url, key, route, count)
            assert values["cost"]["count"] == count, (route, values)
        assert values["output_tokens"]["mean"] == 9.0
