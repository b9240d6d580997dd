"""The main job, end to end: real processes, real digits, true rewards, and the allocation moves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from backends.reference import digits
from tests.e2e.common import config, replay, report, request_body, wait_for
from tests.support.processes import GatewayProcess, ModelServerProcess


@pytest.mark.slow
async def test_the_bandit_finds_the_better_version_and_starves_the_faulty_one(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    with GatewayProcess(tmp_path, config(model_server) + "loops: {allocation: 100ms}\n") as gateway:
        seen = await replay(gateway.url, held_out, 2000)
        total = sum(map(len, seen.values()))

        def settled() -> bool:
            found = report(gateway)
            shares, variants = found["allocation"], found["variants"].values()
            known = {
                sum(v["assigned"] for v in variants),
                sum(v["rewards"]["correct"]["count"] for v in variants),
            }
            learned: bool = abs(shares["v3"] - 0.01) <= 0.002 and shares["v2"] > 0.6
            return known == {total} and found["epoch"] > 3 and learned

        wait_for(settled)
        found = report(gateway)
        assert found["policy"] == "bandit"
        for name, values in seen.items():
            variant = found["variants"][name]
            assert variant["assigned"] == variant["served"] == len(values)
            reward = variant["rewards"]["correct"]
            assert reward["count"] == len(values)
            assert reward["mean"] == pytest.approx(np.mean(values))
            assert reward["interval"][0] < reward["mean"] < reward["interval"][1]
        # The record holds each decision with the probability it was drawn with.
        rows = httpx.get(f"{gateway.url}/-/outcomes", params={"route": "digits", "limit": 100}).json()[
            "outcomes"
        ]
        assert len(rows) == 100
        assert all(0 < row["propensity"] <= 1 for row in rows)


@pytest.mark.slow
async def test_no_acknowledged_reward_is_lost_when_the_gateway_is_killed(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    with GatewayProcess(tmp_path, config(model_server)) as gateway:
        work = asyncio.create_task(replay(gateway.url, held_out, 20_000, allow_loss=True))

        def rewarded() -> int:
            return sum(v["rewards"]["correct"]["count"] for v in report(gateway)["variants"].values())

        await asyncio.to_thread(wait_for, lambda: rewarded() > 200)
        gateway.kill()
        seen = await work
        assert sum(map(len, seen.values())) > 50
        gateway.start()
        found = report(gateway)["variants"]
        for name, values in seen.items():
            reward = found[name]["rewards"]["correct"]
            # One more per client may have been durable when the answer was cut off.
            assert len(values) <= reward["count"] <= len(values) + 8


def test_triton_clients_work_unchanged(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    with (
        GatewayProcess(tmp_path, config(model_server)) as gateway,
        triton.InferenceServerClient(f"127.0.0.1:{gateway.port}") as client,
    ):
        if True:
            assert client.is_model_ready("digits")
            pixels = held_out.pixels[:16]
            for binary in (True, False):
                given = triton.InferInput("pixels", list(pixels.shape), "FP32")
                given.set_data_from_numpy(pixels, binary_data=binary)
                wanted = [triton.InferRequestedOutput(n, binary_data=binary) for n in ("label", "scores")]
                answer = client.infer("digits", [given], outputs=wanted)
                labels = answer.as_numpy("label").ravel()
                assert labels.shape == (16,)
                scores = answer.as_numpy("scores")
                assert (scores.argmax(axis=1) == labels).all()


def test_curl_works(tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits) -> None:
    with GatewayProcess(tmp_path, config(model_server)) as gateway:
        body = json.dumps(request_body(held_out.pixels[0]))
        done = subprocess.run(
            [
                "curl",
                "-sS",
                "-i",
                f"{gateway.url}/v2/models/digits/infer",
                "-d",
                body,
                "-H",
                "x-request-id: mine",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        head, _, answer = done.stdout.partition("\n\n")
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
        assert " 200 " in head.splitlines()[0]
        assert fields["x-request-id"] == "mine"
        assert fields["x-variant"] in {"v1", "v2", "v3"}
        assert fields["server-timing"].startswith("gateway;dur=")
        assert len(fields["x-decision-id"]) > 60
        assert json.loads(answer)["model_name"] == "digits"


def test_a_faulty_configuration_is_refused_with_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("listen: 127.0.0.1:8080\nroutes:\n  digits:\n    match: {path: /x}\n    varaints: {}\n")
    for words in (["check", str(path)], ["run", "--config", str(path)]):
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert "varaints" in said
        assert "variants" in said
        assert "5" in said
        assert "Traceback" not in said


def test_an_edit_swaps_the_snapshot_and_a_bad_one_changes_nothing(
    tmp_path: Path, model_server: ModelServerProcess
) -> None:
    first = config(model_server)
    with GatewayProcess(tmp_path, first) as gateway:
        assert httpx.get(f"{gateway.url}/other").status_code == 404
        gateway.write(first.replace("match: {path: /fixed}", "match: {path: /other}"))
        wait_for(lambda: httpx.get(f"{gateway.url}/other").status_code == 200)
        gateway.write("routes: [")
        wait_for(lambda: "stays as it is" in gateway.log)
        assert httpx.get(f"{gateway.url}/other").status_code == 200


def test_sigterm_is_graceful(tmp_path: Path, model_server: ModelServerProcess) -> None:
    with GatewayProcess(tmp_path, config(model_server)) as gateway:
        assert httpx.get(f"{gateway.url}/v2/models/digits/ready").status_code == 200
        assert gateway.stop() == 0
        gateway.start()
        wait_for(lambda: sum(v["assigned"] for v in report(gateway)["variants"].values()) == 1)
