"""What real SDKs ask for, compared: the same model agrees with itself, and another one does not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.support.processes import GatewayProcess, ModuleProcess

if (
    TYPE_CHECKING
):  # imported when first used: it takes a second, and each process of pytest collects all files
    import anthropic

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
backends:
  sound: {{url: "{sound}"}}
  changed: {{url: "{changed}"}}
routes:
  llm:
    match: {{path: /}}
    variants: {{v1: {{backend: sound}}, same: {{backend: sound}}, other: {{backend: changed}}}}
    policy: {{type: shadow, primary: v1, shadows: {{same: 100%, other: 100%}}}}
"""
PAGE = Path(__file__).parents[2] / "docs/servers/openai.md"
ASKED: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with ExitStack() as stack:
        servers = {
            says: stack.enter_context(ModuleProcess("tests.compat.llm", says=says))
            for says in ("sound", "changed")
        }
        for server in servers.values():
            server.wait_ready()
        config = CONFIG.format(**{says: server.url for says, server in servers.items()})
        yield stack.enter_context(GatewayProcess(tmp_path_factory.mktemp("compared"), config))


@pytest.fixture(scope="module")
def openai_client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_client(gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    import anthropic

    with anthropic.Anthropic(base_url=gateway.url, api_key="unused", max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI) -> str | None:
    return client.chat.completions.create(model="m", messages=ASKED).choices[0].message.content


def chat_stream(client: openai.OpenAI) -> str:
    stream = client.chat.completions.create(model="m", messages=ASKED, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def completion(client: openai.OpenAI) -> str:
    return client.completions.create(model="m", prompt="hello").choices[0].text


def completion_stream(client: openai.OpenAI) -> str:
    stream = client.completions.create(model="m", prompt="hello", stream=True)
    return "".join(chunk.choices[0].text for chunk in stream)


def response(client: openai.OpenAI) -> str:
    return client.responses.create(model="m", input="hello").output_text


def response_stream(client: openai.OpenAI) -> str:
    stream = client.responses.create(model="m", input="hello", stream=True)
    return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


def embedding(client: openai.OpenAI) -> int:
    return len(client.embeddings.create(model="m", input=["one", "two"]).data[1].embedding)


def message(client: anthropic.Anthropic) -> str:
    (block,) = client.messages.create(model="m", max_tokens=9, messages=ASKED).content
    assert block.type == "text"
    return block.text


def message_stream(client: anthropic.Anthropic) -> str:
    with client.messages.stream(model="m", max_tokens=9, messages=ASKED) as stream:
        return "".join(stream.text_stream)


def agreed(gateway: GatewayProcess) -> dict[str, tuple[int, int]]:
    """By shadow: responses compared, and those that agree."""
    found = httpx.get(f"{gateway.url}/-/routes/llm").json()["agreement"]
    return {
        name: (one["compared"], round(one["compared"] * (one["rate"] or 0))) for name, one in found.items()
    }


def check(gateway: GatewayProcess, ask: Callable[[], object]) -> None:
    """Asks again where a busy machine has dropped a copy."""
    before = agreed(gateway)
    assert ask()
    begun, asked = time.monotonic(), 1
    while True:
        now = agreed(gateway)
        new = {name: (now[name][0] - before[name][0], now[name][1] - before[name][1]) for name in now}
        if all(compared for compared, _ in new.values()):
            break
        time.sleep(0.1)
        assert asked < 6
        if time.monotonic() > begun + 10 * asked:
            assert ask()
            asked += 1
    assert new["same"][0] == new["same"][1] <= asked
    assert new["other"] <= (asked, 0)


@pytest.mark.parametrize(
    "ask", [chat, chat_stream, completion, completion_stream, response, response_stream, embedding]
)
def test_what_the_openai_sdk_asks_for(
    gateway: GatewayProcess, openai_client: openai.OpenAI, ask: Callable[[openai.OpenAI], object]
) -> None:
    check(gateway, lambda: ask(openai_client))


@pytest.mark.parametrize("ask", [message, message_stream])
def test_what_the_anthropic_sdk_asks_for(
    gateway: GatewayProcess,
    anthropic_client: anthropic.Anthropic,
    ask: Callable[[anthropic.Anthropic], object],
) -> None:
    check(gateway, lambda: ask(anthropic_client))


def test_how_the_page_gets_at_the_decision_id(gateway: GatewayProcess) -> None:
    """Each Python block of docs/servers/openai.md, run as it stands."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {"openai": openai}
    for block in blocks:
        block = block.replace("http://127.0.0.1:8080", gateway.url)
        exec(block, names)
        known = httpx.get(f"{gateway.url}/-/decisions/{names['decision']}")
        assert known.status_code == 200
        assert names.get("completion") or "".join(c.choices[0].delta.content or "" for c in names["stream"])
