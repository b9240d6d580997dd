"""Tokens, cost and speed of what real SDKs ask for, whole and streamed: in the report, the metrics and guardrails."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.build import ROOT
from tests.support.processes import GatewayProcess, ModuleProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  output_tokens: {{type: count, goal: minimize, usage: output_tokens}}
  cost: {{type: real, minimum: 0, cap: 0.001, usage: cost}}
  first_token_ms: {{type: real, usage: first_token_ms}}
  tokens_per_second: {{type: real, usage: tokens_per_second}}
backends:
  llm: {{url: "{url}"}}
routes:
  llm:
    match: {{path: /}}
    usage: true
    variants:
      v1: {{backend: llm, price: {{input: 1, output: 10}}}}
    policy: {{type: single, variant: v1}}
  asked:
    match: {{path: /asked}}
    usage: request
    variants: {{v1: {{backend: llm, rewrite: {{path: /, model: other}}}}}}
    policy: {{type: single, variant: v1}}
"""
ASKED: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[ModuleProcess]:
    with ModuleProcess("tests.compat.llm", says="sound") as found:
        found.wait_ready()
        yield found


@pytest.fixture(scope="module")
def gateway(server: ModuleProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("usage"), CONFIG.format(url=server.url)) as found:
        yield found


def total(gateway: GatewayProcess, metric: str, **labels: str) -> float:
    """The sum of the series of a Prometheus counter that have these labels."""
    text = httpx.get(f"{gateway.url}/-/metrics").text
    found = re.findall(rf"^{metric}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    return sum(float(value) for given, value in found if wanted <= set(given.split(",")))


def report(gateway: GatewayProcess, route: str) -> Any:
    return httpx.get(f"{gateway.url}/-/routes/{route}").json()


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return what ``condition`` returns once that is true."""
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_what_sdks_ask_for_is_counted(gateway: GatewayProcess) -> None:
    import anthropic  # here, since it takes a second and each process of pytest collects all files

    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client,
        anthropic.Anthropic(base_url=gateway.url, api_key="unused", max_retries=0) as claude,
    ):
        client.chat.completions.create(model="m", messages=ASKED)
        list(
            client.chat.completions.create(
                model="m", messages=ASKED, stream=True, stream_options={"include_usage": True}
            )
        )
        client.responses.create(model="m", input="hello")
        list(client.responses.create(model="m", input="hello", stream=True))
        claude.messages.create(model="m", max_tokens=9, messages=ASKED)
        with claude.messages.stream(model="m", max_tokens=9, messages=ASKED) as stream:
            assert list(stream.text_stream)
        list(client.chat.completions.create(model="m", messages=ASKED, stream=True))  # asks for no counts

    def counted() -> Any:
        rewards = report(gateway, "llm")["variants"]["v1"]["rewards"]
        counts = [rewards[metric]["count"] for metric in ("cost", "tokens_per_second", "first_token_ms")]
        return rewards if counts == [6, 6, 4] else None  # a stream without counts has a first token too

    rewards = wait_for(counted)
    assert (rewards["output_tokens"]["count"], rewards["output_tokens"]["mean"]) == (6, 9.0)
    assert (rewards["cost"]["count"], rewards["cost"]["mean"]) == (6, pytest.approx(91e-6))
    assert 0 < rewards["first_token_ms"]["mean"] < 20_000
    goals = {name: metric["goal"] for name, metric in report(gateway, "llm")["metrics"].items()}
    assert (goals["cost"], goals["first_token_ms"], goals["tokens_per_second"]) == (
        "minimize",
        "minimize",
        "maximize",
    )
    assert total(gateway, "turnout_tokens_total", type="input", route="llm") == 6
    assert total(gateway, "turnout_tokens_total", type="output", route="llm") == 54
    assert total(gateway, "turnout_cost_total", route="llm") == pytest.approx(546e-6)
    assert total(gateway, "turnout_responses_without_usage_total", route="llm") == 1


def test_a_stream_is_asked_for_its_counts(gateway: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/asked/v1", api_key="unused", max_retries=0) as client:
        chunks = list(client.chat.completions.create(model="m", messages=ASKED, stream=True))
        client.responses.create(model="m", input="hello")
    assert (chunks[-1].choices, chunks[-1].usage is not None, chunks[-1].model) == ([], True, "other")
    wait_for(lambda: total(gateway, "turnout_tokens_total", route="asked", type="output") == 18)


def test_the_canary_of_the_page_is_rolled_back_for_its_cost(server: ModuleProcess, tmp_path: Path) -> None:
    """And its Python, run as it stands, reports a reward."""
    page = (ROOT / "docs/llm.md").read_text()
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    *_, block = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    config = config.replace("metrics:\n", "metrics:\n  helpful: {type: boolean}\n")
    config = config.replace("127.0.0.1:8080", "127.0.0.1:@PORT@").replace("http://127.0.0.1:8000", server.url)
    config = config.replace("cap: 0.02", "cap: 0.0002")  # its responses have ten tokens
    config = config.replace("{weight: 10%", "{weight: 50%")
    with (
        GatewayProcess(tmp_path, f"store: sqlite:///@DIR@/turnout.db\n{config}") as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        exec(block.replace("http://127.0.0.1:8080", gateway.url), {})

        def helpful() -> Any:
            found = [one["rewards"] for one in report(gateway, "chat")["variants"].values()]
            return sum(one["helpful"]["count"] for one in found if "helpful" in one)

        assert wait_for(helpful) == 1

        def rolled_back() -> Any:
            for _ in range(20):
                list(client.chat.completions.create(model="m", messages=ASKED, stream=True))
            found = report(gateway, "chat")
            return found if (found["rollout"]["decided"] or {}).get("target") == "rolled_back" else None

        found = wait_for(rolled_back)
    failed = [one for one in found["rollout"]["decided"]["evidence"] if one.get("verdict") == "fail"]
    assert [one["metric"] for one in failed] == ["cost"]
    assert failed[0]["estimate"] == pytest.approx(92.5 / 5.55)
    lift = found["variants"]["large"]["lift"]
    assert lift["cost"]["better"] is False
    assert lift["cost"]["absolute"] == pytest.approx(86.95e-6)
    assert all(
        lift[metric]["always_valid"]
        for metric in ("cost", "output_tokens", "first_token_ms", "tokens_per_second")
    )
