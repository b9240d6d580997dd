"""What SDKs see of errors: the backend's own, the gateway's, and streams that break off or are cancelled."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest

from benchmarks.children import free_port
from gateway.config.apikey import key_hash, new_secret
from tests.support.processes import GatewayProcess, ModuleProcess

KEY, READER = new_secret(), new_secret()
CONFIG = f"""
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
auth:
  keys:
    - {{id: app, hash: "{key_hash(KEY)}", scopes: [infer, read]}}
    - {{id: reader, hash: "{key_hash(READER)}", scopes: [read]}}
backends:
  llm: {{url: "@LLM@"}}
  gone: {{url: "http://127.0.0.1:@GONE@"}}
routes:
  llm:
    match: {{path: /llm}}
    variants: {{v1: {{backend: llm, rewrite: {{path: /v1}}}}}}
    policy: {{type: single, variant: v1}}
  hasty:
    match: {{path: /hasty}}
    variants: {{v1: {{backend: llm, rewrite: {{path: /v1}}}}}}
    policy: {{type: single, variant: v1}}
    timeouts: {{first_byte: 1s}}
  rescued:
    match: {{path: /rescued}}
    variants:
      v1: {{backend: llm, rewrite: {{path: /v1}}}}
      v2: {{backend: llm, rewrite: {{path: /v1, model: sound}}}}
    policy: {{type: single, variant: v1}}
    fallback: [v2]
    fallback_on: {{status: [429, 500]}}
    timeouts: {{first_byte: 3s}}  # also those of the fallback, on a busy machine
  named:
    match: {{path: /named, model: assistant}}
    variants: {{v1: {{backend: llm, rewrite: {{path: /v1}}}}}}
    policy: {{type: single, variant: v1}}
  gone:
    match: {{path: /gone}}
    variants: {{v1: {{backend: gone, rewrite: {{path: /v1}}}}}}
    policy: {{type: single, variant: v1}}
"""
MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with ExitStack() as stack:
        server = stack.enter_context(ModuleProcess("tests.compat.llm"))
        server.wait_ready()
        config = CONFIG.replace("@LLM@", server.url).replace("@GONE@", str(free_port()))
        yield stack.enter_context(GatewayProcess(tmp_path_factory.mktemp("errors"), config))


def client(gateway: GatewayProcess, path: str, *, key: str = KEY, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + path, api_key=key, max_retries=retries, timeout=30)


def ends(gateway: GatewayProcess, request: str) -> dict[str, Any]:
    """The outcome of a request in the record."""
    deadline = time.monotonic() + 60
    while True:
        found = httpx.get(
            f"{gateway.url}/-/outcomes", params={"limit": 500}, headers={"x-api-key": KEY}
        ).json()["outcomes"]
        rows: list[dict[str, Any]] = [row for row in found if row["request_id"] == request]
        if rows:
            return rows[0]
        assert time.monotonic() < deadline, f"{request} is not in the record"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("path", "model", "kind", "code", "said"),
    [
        ("/llm", "busy", openai.RateLimitError, "rate_limit_exceeded", "429 - Rate limit reached"),
        ("/llm", "long", openai.BadRequestError, "too_long", "400 - This model's maximum"),
        ("/llm", "broken", openai.InternalServerError, None, "500 - The server had an error"),
        ("/hasty", "slow", openai.InternalServerError, "backend_first_byte_timeout", "504 - The backend did not"),
        ("/gone", "sound", openai.InternalServerError, "backend_connect", "502 - The backend could not be"),
        ("/named", "gpt", openai.NotFoundError, "unknown_route", "404 - No route serves the model 'gpt'"),
        ("/nowhere", "sound", openai.NotFoundError, "unknown_route", "404 - No route matches"),
    ],
)  # fmt: skip
def test_an_error_has_the_code_and_message_that_the_sdk_shows(
    gateway: GatewayProcess, path: str, model: str, kind: type[openai.APIStatusError], code: str, said: str
) -> None:
    """Also as a stream: an error before the first event is an error of the call."""
    for stream in (False, True):
        with client(gateway, path) as sdk, pytest.raises(kind) as caught:
            sdk.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
        assert caught.value.code == code
        assert caught.value.message.startswith(f"Error code: {said}")
        assert caught.value.request_id


@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [
        ("sk-wrong", openai.AuthenticationError, "unauthenticated"),
        (READER, openai.PermissionDeniedError, "forbidden"),
    ],
    ids=["unknown", "of another scope"],
)
def test_a_key_that_is_refused(
    gateway: GatewayProcess, key: str, kind: type[openai.APIStatusError], code: str
) -> None:
    with client(gateway, "/llm", key=key) as sdk, pytest.raises(kind) as caught:
        sdk.chat.completions.create(model="sound", messages=MESSAGES)
    assert caught.value.code == code


def test_the_anthropic_sdk_shows_the_message_too(gateway: GatewayProcess) -> None:
    import anthropic  # here, since it takes a second and each process of pytest collects all files

    with (
        anthropic.Anthropic(base_url=f"{gateway.url}/nowhere", api_key=KEY, max_retries=0) as sdk,
        pytest.raises(anthropic.NotFoundError, match=r"unknown_route.*No route matches"),
    ):
        sdk.messages.create(model="sound", max_tokens=9, messages=MESSAGES)


@pytest.mark.parametrize("model", ["busy", "broken", "slow"])
def test_a_fallback_hides_the_error(gateway: GatewayProcess, model: str) -> None:
    with client(gateway, "/rescued") as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model=model, messages=MESSAGES)
        assert raw.headers["x-variant"] == "v2"
        assert (raw.parse().choices[0].message.content or "").startswith("sound")
        stream = sdk.chat.completions.create(model=model, messages=MESSAGES, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).startswith("sound")


def test_each_retry_of_the_sdk_is_a_decision(gateway: GatewayProcess) -> None:
    with client(gateway, "/llm", retries=1) as sdk, pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.create(
            model="broken", messages=MESSAGES, extra_headers={"x-request-id": "twice"}
        )
    assert caught.value.request_id == "twice"
    deadline, found = time.monotonic() + 60, Counter[str]()
    while found["twice"] < 2 and time.monotonic() < deadline:
        rows = httpx.get(f"{gateway.url}/-/outcomes?limit=500", headers={"x-api-key": KEY}).json()["outcomes"]
        found = Counter(row["request_id"] for row in rows)
    assert found["twice"] == 2


def test_a_stream_that_breaks_off_is_an_error_of_the_variant(gateway: GatewayProcess) -> None:
    for path in ("/llm", "/rescued"):  # events were sent: too late for a fallback
        with client(gateway, path) as sdk:
            stream = sdk.chat.completions.create(model="cut", messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIConnectionError):
                list(stream)
        outcome = ends(gateway, stream.response.headers["x-request-id"])
        assert (outcome["error"], outcome["served"]) == ("backend_truncated", "v1")


def test_cancelled_streams_end_at_the_backend_and_count_against_no_variant(gateway: GatewayProcess) -> None:
    with client(gateway, "/llm") as sdk:
        stream = sdk.chat.completions.create(model="endless", messages=MESSAGES, stream=True)
        next(iter(stream))
        stream.close()

    async def cancelled() -> str:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/llm", api_key=KEY, max_retries=0) as sdk:
            chunks = await sdk.chat.completions.create(model="endless", messages=MESSAGES, stream=True)
            reading, first = asyncio.Event(), asyncio.Event()

            async def read() -> None:
                async for _ in chunks:
                    first.set()
                reading.set()

            task = asyncio.ensure_future(read())
            await first.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await chunks.close()
            assert not reading.is_set()
            return chunks.response.headers["x-request-id"]

    for request in (stream.response.headers["x-request-id"], asyncio.run(cancelled())):
        assert ends(gateway, request)["error"] == "client_left"
    report = httpx.get(f"{gateway.url}/-/routes/llm", headers={"x-api-key": KEY}).json()
    assert report["variants"]["v1"]["errors"] == _failures(gateway)


def _failures(gateway: GatewayProcess) -> int:
    rows = httpx.get(f"{gateway.url}/-/outcomes?limit=500&route=llm", headers={"x-api-key": KEY}).json()
    return sum(row["error"].startswith("backend_") for row in rows["outcomes"])
