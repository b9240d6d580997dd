"""Tokens and cost of what real SDKs ask for, whole and streamed: in the report, the metrics and `turnout status`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support.processes import GatewayProcess, ModuleProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  output_tokens: {{type: count, goal: minimize, usage: output_tokens}}
  cost: {{type: real, goal: minimize, minimum: 0, usage: cost}}
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
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with ExitStack() as stack:
        server = stack.enter_context(ModuleProcess("tests.compat.llm", says="sound"))
        server.wait_ready()
        config = CONFIG.format(url=server.url)
        yield stack.enter_context(GatewayProcess(tmp_path_factory.mktemp("usage"), config))


def total(gateway: GatewayProcess, metric: str, **labels: str) -> float:
    """The sum of the series of a Prometheus counter that have these labels."""
    text = httpx.get(f"{gateway.url}/-/metrics").text
    found = re.findall(rf"^{metric}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    return sum(float(value) for given, value in found if wanted <= set(given.split(",")))


def test_what_sdks_ask_for_is_counted(gateway: GatewayProcess) -> None:
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

    end = time.monotonic() + 20
    while True:
        rewards = httpx.get(f"{gateway.url}/-/routes/llm").json()["variants"]["v1"]["rewards"]
        if rewards.get("cost", {}).get("count") == 6 or time.monotonic() > end:
            break
        time.sleep(0.1)
    assert (rewards["output_tokens"]["count"], rewards["output_tokens"]["mean"]) == (6, 9.0)
    assert (rewards["cost"]["count"], rewards["cost"]["mean"]) == (6, pytest.approx(91e-6))
    assert total(gateway, "turnout_tokens_total", type="input") == 6
    assert total(gateway, "turnout_tokens_total", type="output", variant="v1") == 54
    assert total(gateway, "turnout_cost_total", route="llm") == pytest.approx(546e-6)
    assert total(gateway, "turnout_responses_without_usage_total") == 1


def test_a_stream_is_asked_for_its_counts(gateway: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/asked/v1", api_key="unused", max_retries=0) as client:
        chunks = list(client.chat.completions.create(model="m", messages=ASKED, stream=True))
        client.responses.create(model="m", input="hello")
    assert (chunks[-1].choices, chunks[-1].usage is not None, chunks[-1].model) == ([], True, "other")
    end = time.monotonic() + 20
    while (
        total(gateway, "turnout_tokens_total", route="asked", type="output") < 18 and time.monotonic() < end
    ):
        time.sleep(0.1)
    assert total(gateway, "turnout_tokens_total", route="asked", type="output") == 18
