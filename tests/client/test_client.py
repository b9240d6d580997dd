"""The client library against a running gateway."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import numpy as np
import openai
import pytest

import turnout
from tests.support.processes import GatewayProcess
from turnout import AsyncClient, Client, sync

BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}
INFER = "/v2/models/digits/infer"


def recorded(gateway: GatewayProcess, decision: turnout.Decision) -> dict[str, Any]:
    """Metric → value, as the gateway's record has them."""
    found = httpx.get(f"{gateway.url}/-/decisions/{decision.id}").json()
    return {reward["metric"]: reward["value"] for reward in found["rewards"]}


def test_a_response_carries_its_decision_and_takes_a_reward(gateway: GatewayProcess) -> None:
    with Client(gateway.url) as client:
        response = client.post(INFER, json=BODY, headers={"x-request-id": "r-1"})
        assert response.json()["outputs"][0]["data"] == [1.0, 2.0]
        assert response.decision.variant == response.headers["x-variant"]
        assert response.decision.request_id == "r-1"
        response.decision.reward("correct", True, tags={"source": "test"})
        client.flush()
        assert recorded(gateway, response.decision) == {"correct": 1.0}
        response.decision.retract("correct")
        response.decision.reward("rating", 0.5)
    assert recorded(gateway, response.decision) == {"correct": None, "rating": 0.5}


def test_outputs_of_an_error_say_why(gateway: GatewayProcess) -> None:
    with (
        Client(gateway.url) as client,
        pytest.raises(httpx.HTTPStatusError, match="404: unknown_route: No route"),
    ):
        client.infer("none", {"x": [1.0]}).outputs()


async def test_calls_of_the_gateway_raise_what_it_says(gateway: GatewayProcess) -> None:
    with (
        Client(gateway.url) as client,
        pytest.raises(httpx.HTTPStatusError, match=r"404: not_found: .*'none'"),
    ):
        client.decide("none")
    async with AsyncClient(gateway.url) as other:
        with pytest.raises(httpx.HTTPStatusError, match=r"404: not_found: .*'none'"):
            await other.decide("none")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_that_could_not_work_is_not_made(kind: type[Client | AsyncClient]) -> None:
    for url in (
        "",
        "127.0.0.1:8080",
        "localhost:8080",
        "ftp://gateway",
        "http://gateway:port",
        "http://gateway?key=1",
    ):
        with pytest.raises(ValueError, match="is not the URL of a gateway; write one such as http://"):
            kind(url)
    with pytest.raises(ValueError, match="buffer: 0 is not a number of rewards"):
        kind("http://127.0.0.1:8080", buffer=0)


async def test_the_asynchronous_client_does_the_same(gateway: GatewayProcess) -> None:
    async with AsyncClient(gateway.url) as client:
        async with client.stream("POST", INFER, json=BODY) as response:
            assert (await response.aread()).startswith(b"{")
        response.decision.reward("correct", False)
        await client.flush()
        assert recorded(gateway, response.decision) == {"correct": 0.0}
        other = await client.infer("digits", {"x": np.zeros((2, 3), np.float32)})
        assert other.outputs() == {"echo": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]}
        other.decision.reward("correct", True)
    assert recorded(gateway, other.decision) == {"correct": 1.0}


@pytest.mark.parametrize(
    ("value", "datatype", "shape"),
    [
        (np.ones((2, 2), np.int32), "INT32", [2, 2]),
        ([[1.5, 2.5]], "FP32", [1, 2]),
        ([[1, 2]], "INT64", [1, 2]),
        ([[0, 0.5], [1, 2]], "FP32", [2, 2]),
        (["a", "b"], "BYTES", [2]),
        ([True], "BOOL", [1]),
    ],
    ids=["numpy", "floats", "ints", "both", "strings", "booleans"],
)
def test_inputs_are_sent_with_their_type_and_shape(
    gateway: GatewayProcess, value: Any, datatype: str, shape: list[int]
) -> None:
    with Client(gateway.url) as client:
        (tensor,) = client.infer("digits", {"x": value}).json()["outputs"]
    assert (tensor["datatype"], tensor["shape"]) == (datatype, shape)


@pytest.mark.parametrize(
    ("value", "kinds"), [([[1, True]], "bool, int"), ([0.5, False], "bool, float"), (["a", 1], "int, str")]
)
def test_inputs_of_mixed_types_are_refused(gateway: GatewayProcess, value: Any, kinds: str) -> None:
    """They were sent as FP32: true as a number, and text too."""
    with Client(gateway.url) as client, pytest.raises(ValueError, match=f"'x' mixes {kinds}; give"):
        client.infer("digits", {"x": value})


def test_a_stored_decision_id_takes_rewards_of_another_process(gateway: GatewayProcess) -> None:
    with Client(gateway.url) as client:
        identity = client.post(INFER, json=BODY).decision.id
    with Client(gateway.url) as other:
        assert other.report([{"decision_id": identity, "metric": "correct", "value": True}]) == {
            "accepted": 1,
            "duplicates": 0,
            "updated": 0,
        }
        other.decision(identity).reward("correct", True)
        other.flush()


def test_a_refused_reward_is_raised_by_flush_and_told(gateway: GatewayProcess) -> None:
    told: list[turnout.Rejection] = []
    with Client(gateway.url, on_rejected=told.append) as client:
        decision = client.post(INFER, json=BODY).decision
        decision.reward("corect", True)
        decision.reward("correct", True)
        with pytest.raises(turnout.RewardsRejected, match="unknown_metric") as caught:
            client.flush()
        assert caught.value.rejections[0].item["metric"] == "corect"
        assert told == list(caught.value.rejections)
        client.flush()  # told once
        with pytest.raises(turnout.RewardsRejected):
            client.report([{"decision_id": decision.id, "metric": "corect", "value": True}])
    assert recorded(gateway, decision) == {"correct": 1.0}


def test_leaving_the_block_raises_what_was_refused_but_hides_no_other_error(gateway: GatewayProcess) -> None:
    with pytest.raises(turnout.RewardsRejected), Client(gateway.url) as client:
        client.post(INFER, json=BODY).decision.reward("corect", True)
    with pytest.raises(ZeroDivisionError), Client(gateway.url) as client:
        client.post(INFER, json=BODY).decision.reward("corect", 1 / 0)


async def test_the_asynchronous_client_raises_alike(gateway: GatewayProcess) -> None:
    with pytest.raises(turnout.RewardsRejected):
        async with AsyncClient(gateway.url) as client:
            (await client.post(INFER, json=BODY)).decision.reward("corect", True)


def test_rewards_outlive_a_restart_of_the_gateway(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.outbox.BATCH_ITEMS", 20)
    with Client(gateway.url) as client:
        decisions = [client.post(INFER, json=BODY).decision for _ in range(50)]
        gateway.crash()
        for decision in decisions:
            decision.reward("correct", True)
        with pytest.raises(turnout.FlushTimeout, match="50 rewards are unsent"):
            client.flush(timeout=0.5)
        gateway.start()
        client.flush()
        assert all(recorded(gateway, d) == {"correct": 1.0} for d in (decisions[0], decisions[-1]))
        assert client.report(
            [{"decision_id": d.id, "metric": "correct", "value": True} for d in decisions]
        ) == {"accepted": 0, "duplicates": 50, "updated": 0}


def test_a_full_buffer_says_so_and_loses_nothing(gateway: GatewayProcess) -> None:
    client = Client(gateway.url, buffer=3)
    decision = client.post(INFER, json=BODY).decision
    gateway.crash()
    try:
        for _ in range(3):
            decision.reward("correct", True)
        with pytest.raises(turnout.BufferFull, match="3 rewards wait"):
            decision.reward("correct", True)
    finally:
        gateway.start()
    client.close()
    assert recorded(gateway, decision) == {"correct": 1.0}


def test_a_wrong_url_is_raised_and_not_retried(gateway: GatewayProcess) -> None:
    with Client(gateway.url + "/nowhere") as client:
        client.decision("nonsense").reward("correct", True)
        with pytest.raises(turnout.RewardsRejected, match="unknown_route"):
            client.flush(timeout=10)


def test_the_gateways_own_responses_carry_no_decision(gateway: GatewayProcess) -> None:
    with Client(gateway.url) as client:
        with pytest.raises(turnout.NoDecision, match="status 200"):
            _ = client.get("/-/healthz").decision
        with pytest.raises(
            turnout.NoDecision, match=r"status 404\) carries no x-decision-id: unknown_route: "
        ):
            _ = client.get("/nowhere").decision
        with (
            client.stream("GET", "/nowhere") as response,
            pytest.raises(turnout.NoDecision, match=r"decision-id$"),
        ):
            _ = response.decision


def test_the_openai_sdk_stays_as_it_is(gateway: GatewayProcess) -> None:
    sdk = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused")
    with Client(gateway.url) as client:
        turnout.attach(sdk, client)
        with turnout.capture() as decisions:
            said = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "2+2"}])
        assert said.choices[0].message.content == "four"
        (decision,) = decisions
        assert decision.variant == "small"
        decision.reward("correct", True)
    assert recorded(gateway, decision) == {"correct": 1.0}


async def test_the_asynchronous_openai_sdk_too(gateway: GatewayProcess) -> None:
    sdk = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused")
    async with AsyncClient(gateway.url) as client:
        turnout.attach(sdk, client)
        with turnout.capture() as decisions:
            await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "2+2"}])
        decisions[0].reward("correct", True)
    assert recorded(gateway, decisions[0]) == {"correct": 1.0}
    await sdk.close()


def test_sessions_of_httpx_and_requests(gateway: GatewayProcess) -> None:
    requests = pytest.importorskip("requests")
    with Client(gateway.url) as client, httpx.Client(base_url=gateway.url) as plain:
        session = requests.Session()
        for each in (plain, session):
            turnout.attach(each, client)
        with turnout.capture() as decisions:
            response = plain.post(INFER, json=BODY)
            session.post(gateway.url + INFER, json=BODY)
        assert decisions[0].id == response.headers["x-decision-id"]
        assert len({d.id for d in decisions}) == 2
        with pytest.raises(TypeError, match="dict is not known"):
            turnout.attach({}, client)


def test_tritonclient_hides_headers_and_is_known_by_its_request_ids(gateway: GatewayProcess) -> None:
    triton = pytest.importorskip("tritonclient.http")
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1.0, 2.0]], np.float32), binary_data=False)
    sdk = triton.InferenceServerClient(gateway.url.removeprefix("http://"))
    with Client(gateway.url) as client:
        with pytest.raises(ValueError, match="name the gateway's route"):
            turnout.attach(sdk, client)
        turnout.attach(sdk, client, route="digits")
        with turnout.capture() as decisions:
            assert sdk.infer("digits", [tensor]).as_numpy("echo").tolist() == [[1.0, 2.0]]
        (decision,) = decisions
        assert decision.id == ""
        decision.reward("correct", True)
        client.flush()
        outcomes = client.get("/-/outcomes?route=digits").json()["outcomes"]
        (outcome,) = [found for found in outcomes if found["request_id"] == decision.request_id]
        found = client.get(f"/-/decisions/{outcome['decision']}").json()
    assert [(r["metric"], r["value"]) for r in found["rewards"]] == [("correct", 1.0)]
    sdk.close()


def test_concurrent_captures_do_not_mix(gateway: GatewayProcess) -> None:
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        with turnout.capture() as decisions:
            expected = [client.post(INFER, json=BODY).decision.id for _ in range(5)]
        found[number] = [d.id for d in decisions]
        assert found[number] == expected

    with Client(gateway.url) as client:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({identity for ids in found.values() for identity in ids}) == 20


PROGRAM = """
import os, sys, turnout
client = turnout.Client(sys.argv[1])
client.decision(sys.argv[2]).reward("correct", True)
if len(sys.argv) > 3:
    client.flush()
    if os.fork() == 0:
        client.decision(sys.argv[2]).reward("rating", 0.25)
        sys.exit(0)
    os.wait()
"""


@pytest.mark.parametrize("forks", [False, True])
def test_a_program_that_just_ends_has_sent_its_rewards(gateway: GatewayProcess, forks: bool) -> None:
    with Client(gateway.url) as client:
        decision = client.post(INFER, json=BODY).decision
    words = [sys.executable, "-c", PROGRAM, gateway.url, decision.id, *(["fork"] if forks else [])]
    subprocess.run(words, check=True, timeout=60, env={**os.environ, "PYTHONPATH": "gateway/client"})
    assert recorded(gateway, decision) == ({"correct": 1.0, "rating": 0.25} if forks else {"correct": 1.0})


def test_a_forked_child_uses_no_connection_and_no_reward_of_its_parent(gateway: GatewayProcess) -> None:
    """Responses on a shared socket would reach either process."""
    with Client(gateway.url) as client:
        client.post(INFER, json=BODY).decision.reward("correct", True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert all(client.post(INFER, json=BODY).status_code == 200 for _ in range(50))
                client.flush(5.0)
                code = 0
            finally:
                os._exit(code)
        for _ in range(50):
            assert client.post(INFER, json=BODY).status_code == 200
        client.flush()
        assert os.waitpid(child, 0)[1] == 0


def test_a_report_of_any_size_is_sent_in_parts(gateway: GatewayProcess) -> None:
    tags = {"comment": "x" * 900}
    with Client(gateway.url) as client:
        decision = client.post(INFER, json=BODY).decision
        item = {"decision_id": decision.id, "metric": "correct", "value": True, "tags": tags}
        assert client.report([item] * 12_000) == {"accepted": 1, "duplicates": 11_999, "updated": 0}
        assert client.report([]) == {"accepted": 0, "duplicates": 0, "updated": 0}
        assert client.report(item for item in [item])["duplicates"] == 1  # type: ignore[arg-type]
        wrong = item | {"metric": "corect"}
        with pytest.raises(turnout.RewardsRejected) as refused:
            client.report([item] * 600 + [wrong])
        assert [rejection.item for rejection in refused.value.rejections] == [wrong]


def test_a_reward_after_the_end_is_refused(gateway: GatewayProcess) -> None:
    with Client(gateway.url) as client:
        decision = client.post(INFER, json=BODY).decision
    with pytest.raises(RuntimeError, match="the client is closed"):
        decision.reward("correct", True)
    client.close()


async def test_a_reward_after_the_end_is_refused_asynchronously_too(gateway: GatewayProcess) -> None:
    async with AsyncClient(gateway.url) as client:
        decision = (await client.post(INFER, json=BODY)).decision
    with pytest.raises(RuntimeError, match="the client is closed"):
        decision.reward("correct", True)


async def test_a_closed_client_does_not_wait_for_what_it_can_send_no_more() -> None:
    """The end of its block waited half a minute for rewards that an earlier `aclose` had given up."""
    client = AsyncClient("http://127.0.0.1:1")
    client.decision("unsent").reward("correct", True)
    with pytest.raises(turnout.FlushTimeout, match="unsent after"):
        await client.aclose(0.01)
    with pytest.raises(turnout.FlushTimeout, match="the client is closed"):
        await client.aclose()


def test_a_decision_without_an_id_takes_no_reward(gateway: GatewayProcess) -> None:
    with Client(gateway.url) as client, pytest.raises(ValueError, match="has no id; pass the x-decision-id"):
        client.decision("").reward("correct", True)


def test_a_value_of_numpy_is_a_value_and_what_is_none_is_refused_immediately(gateway: GatewayProcess) -> None:
    """In the background it would end the thread that sends, and with it every later report."""
    with Client(gateway.url) as client:
        decision = client.post(INFER, json=BODY).decision
        for wrong in (float("nan"), float("inf"), np.float32("nan"), "good", [1]):
            with pytest.raises(ValueError, match="write True, False or a finite number"):
                decision.reward("rating", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            decision.reward("rating", 0.5, tags={"image": b"x"})  # type: ignore[dict-item]
        decision.reward("correct", np.array([1]) == np.array([1]))
        decision.reward("rating", np.float32(0.5))
        client.flush()
    assert recorded(gateway, decision) == {"correct": 1.0, "rating": 0.5}


def test_a_callback_that_fails_ends_no_reports(
    gateway: GatewayProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(rejection: turnout.Rejection) -> None:
        raise LookupError(rejection.code)

    client = Client(gateway.url, on_rejected=fails)
    decision = client.post(INFER, json=BODY).decision
    decision.reward("corect", True)
    with pytest.raises(turnout.RewardsRejected):
        client.flush(10.0)
    decision.reward("correct", True)
    client.close(10.0)
    assert "on_rejected has failed" in caplog.text
    assert recorded(gateway, decision) == {"correct": 1.0}


async def test_a_hook_that_fails_ends_no_reports(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails, start = True, threading.Thread.start

    def hook(_: httpx.Request) -> None:
        if fails:
            raise LookupError("a mistake of the program")

    async def hook_async(request: httpx.Request) -> None:
        hook(request)

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    found = httpx.post(f"{gateway.url}{INFER}", json=BODY).headers["x-decision-id"]
    client = Client(gateway.url, event_hooks={"request": [hook]})
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="new thread"):
        client.decision(found).reward("correct", True)
    monkeypatch.setattr(threading.Thread, "start", start)
    client.decision(found).reward("rating", 0.5)
    other = AsyncClient(gateway.url, event_hooks={"request": [hook_async]})
    other.decision(found).reward("rating", 0.5)
    async with asyncio.timeout(60):
        while caplog.text.count("LookupError: a mistake of the program") < 4:
            await asyncio.sleep(0.02)
    fails = False
    client.close()
    await other.aclose()


async def test_options_of_httpx_reach_its_connections(gateway: GatewayProcess) -> None:
    url = "http://127.0.0.1:1"  # where no one listens: the gateway is the proxy
    with Client(url, proxy=gateway.url, limits=httpx.Limits(max_connections=1)) as client:
        assert client.post(INFER, json=BODY).decision.variant in ("v1", "v2")
    async with AsyncClient(url, proxy=gateway.url) as other:
        assert (await other.post(INFER, json=BODY)).decision.variant in ("v1", "v2")


def test_a_forgotten_client_leaves_no_thread(gateway: GatewayProcess) -> None:
    client = Client(gateway.url)
    client.post(INFER, json=BODY).decision.reward("correct", True)
    client.close()
    until = time.monotonic() + 60
    while any(t.name == "turnout-rewards" for t in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(t.name == "turnout-rewards" for t in threading.enumerate())


def test_a_client_that_was_not_closed_sends_its_rewards_and_leaves_no_thread(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were dropped without a word once nothing referred to the client, for example at the end of a function."""
    monkeypatch.setattr(sync, "IDLE_CHECK_S", 0.05)

    def report() -> turnout.Decision:
        client = Client(gateway.url, headers={"connection": "close"})
        decision = client.post(INFER, json=BODY).decision
        decision.reward("correct", True)
        return turnout.Decision(decision.id)

    decision = report()
    gc.collect()
    until = time.monotonic() + 60
    while recorded(gateway, decision) != {"correct": 1.0} and time.monotonic() < until:
        time.sleep(0.02)
    assert recorded(gateway, decision) == {"correct": 1.0}
    while any(t.name == "turnout-rewards" for t in threading.enumerate()) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
    assert not any(t.name == "turnout-rewards" for t in threading.enumerate())


def test_it_needs_httpx_alone() -> None:
    program = (
        "import sys, turnout; "
        "print([m for m in ('numpy', 'starlette', 'pydantic', 'gateway') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
