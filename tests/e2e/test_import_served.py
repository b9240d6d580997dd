"""What ``turnout import tensorzero`` writes serves TensorZero's clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.docs.reader import blocks, wait_for
from tests.e2e.test_import import PAGE, run
from tests.support.processes import GatewayProcess, ModuleProcess

SERVED = """
[provider_types]
openai.defaults.api_key_location = "none"
vllm.defaults.api_key_location = "none"
[models]
first.routing = ["busy", "spare"]
first.providers.busy = { type = "vllm", model_name = "busy", api_base = "@LLM@/v1/" }
first.providers.spare = { type = "vllm", model_name = "spare", api_base = "@LLM@/v1/" }
second.routing = ["only"]
second.providers.only = { type = "openai", model_name = "second", api_base = "@LLM@/v1" }
openai_spare.routing = ["spare"]
openai_spare.providers.spare = { type = "vllm", model_name = "other", api_base = "@LLM@/v1" }
[embedding_models.e]
routing = ["openai"]
providers.openai = { type = "openai", model_name = "e", api_base = "@LLM@/v1" }
[functions]
rescued.variants.v = { type = "chat_completion", model = "first" }
draft_email.variants.a = { type = "chat_completion", model = "second" }
draft_email.variants.b = { type = "chat_completion", model = "openai_spare" }
[functions.draft_email.experimentation]
type = "adaptive"
candidate_variants = ["a", "b"]
metric = "accepted"
min_prob = 0.2
[metrics]
accepted = { type = "boolean", optimize = "max", level = "episode" }
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("imported")
    with ModuleProcess("tests.compat.llm", says="sound") as server:
        server.wait_ready()
        text, _ = run(folder, SERVED.replace("@LLM@", server.url))
        text = text.replace(":3000 ", ":@PORT@ ").replace("sqlite:///", "sqlite:///@DIR@/")
        with GatewayProcess(folder, text) as running:
            yield running


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key="not-used", max_retries=0) as found:
        yield found


MESSAGES: Any = [{"role": "user", "content": "hello"}]


def test_the_clients_of_a_function_change_only_the_address(client: openai.OpenAI) -> None:
    model = "tensorzero::function_name::draft_email"
    completion = client.chat.completions.create(model=model, messages=MESSAGES)
    assert completion.model in ("second", "other")
    assert (completion.choices[0].message.content or "").startswith("sound:")
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("sound:")


def test_the_client_of_the_page(gateway: GatewayProcess) -> None:
    before = _rewards(gateway)
    (program,) = blocks(PAGE, "python")
    spaces: dict[str, Any] = {}
    exec(program.replace("http://127.0.0.1:3000", gateway.url), spaces)
    spaces["client"].close()
    assert spaces["email"].startswith("sound:")
    wait_for(lambda: _rewards(gateway) == before + 1, "the reward did not arrive")


def test_the_next_provider_serves_where_the_first_is_busy(client: openai.OpenAI) -> None:
    model = "tensorzero::function_name::rescued"
    assert client.chat.completions.create(model=model, messages=MESSAGES).model == "spare"


def test_models_are_called_directly_too(client: openai.OpenAI) -> None:
    named = client.chat.completions.create(model="tensorzero::model_name::second", messages=MESSAGES)
    assert named.model == "second"
    assert client.embeddings.create(model="tensorzero::embedding_model_name::e", input="hello").data
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="tensorzero::function_name::unknown", messages=MESSAGES)


def test_an_episode_stays_on_its_variant_and_gets_its_reward(
    client: openai.OpenAI, gateway: GatewayProcess
) -> None:
    def ask(episode: str) -> tuple[str, str]:
        raw = client.chat.completions.with_raw_response.create(
            model="tensorzero::function_name::draft_email",
            messages=MESSAGES,
            extra_headers={"x-episode-id": episode},
        )
        return raw.headers["x-variant"], raw.headers["x-decision-id"]

    before = _rewards(gateway)
    first = {episode: ask(episode) for episode in map(str, range(20))}
    assert {variant for variant, _ in first.values()} == {"a", "b"}
    assert all(ask(episode)[0] == variant for episode, (variant, _) in first.items())
    for variant, decision in first.values():
        report = {"decision_id": decision, "metric": "accepted", "value": variant == "b"}
        assert httpx.post(f"{gateway.url}/-/feedback", json=report).status_code == 200
    wait_for(lambda: _rewards(gateway) == before + 20, "the rewards did not arrive")


def _rewards(gateway: GatewayProcess) -> int:
    variants = httpx.get(f"{gateway.url}/-/routes/draft_email").json()["variants"]
    return sum(variants[name]["rewards"].get("accepted", {"count": 0})["count"] for name in ("a", "b"))
