"""Programs of users under two type checkers: none complains of a right one, and each of every wrong line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.node import FOLDER, NODE, installed

CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--python-executable", sys.executable],
    "pyright": [NODE, str(FOLDER / "node_modules/pyright/index.js"), "--pythonpath", sys.executable],
}

RIGHT = """
import asyncio
import numpy as np
from typing import assert_type
import turnout
from turnout import AsyncClient, Client, Decision, Rejection, Response

def refused(rejection: Rejection) -> None:
    print(rejection.code, rejection.message, rejection.item)

with Client("http://127.0.0.1:8080", key="KEY", on_rejected=refused, timeout=3.0) as client:
    response = client.post("/x", json={"inputs": []}, headers={"x-user-id": "u1"}, timeout=1.0)
    assert_type(response, Response)
    assert_type(response.decision, Decision)
    response.decision.reward("correct", True, tags={"a": "b"})
    response.decision.reward("rating", np.float32(0.5))
    response.decision.reward("correct", np.bool_(True))
    response.decision.retract("rating")
    assert_type(client.get("/x", params={"a": 1}), Response)
    assert_type(client.put("/x", content=b""), Response)
    assert_type(client.patch("/x"), Response)
    assert_type(client.delete("/x"), Response)
    assert_type(client.send(client.build_request("GET", "/x")), Response)
    with client.stream("POST", "/x", json={}) as streamed:
        for chunk in streamed.iter_text():
            print(chunk)
        streamed.decision.reward("correct", False)
    print(client.infer("digits", {"pixels": np.zeros((1, 2), np.float32)}, version="1").outputs()["y"])
    decision = client.decide("greeting", unit="u", features={"age": 3})
    assert_type(decision.propensity, float | None)
    assert_type(client.report([{"decision_id": decision.id, "metric": "m", "value": 1}]), dict[str, int])
    with turnout.capture() as decisions:
        client.post("/x")
    assert_type(decisions, list[Decision])
    try:
        client.flush(timeout=3.0)
    except turnout.RewardsRejected as error:
        client.report([rejection.item for rejection in error.rejections])

async def main() -> None:
    async with AsyncClient("http://127.0.0.1:8080") as client:
        response = await client.post("/x", json={})
        response.decision.reward("correct", True)
        assert_type(await client.put("/x"), Response)
        async with client.stream("GET", "/x") as streamed:
            async for line in streamed.aiter_lines():
                print(line)
        await client.flush()
        assert_type(await client.decide("greeting"), Decision)

asyncio.run(main())
"""

WRONG = """
from turnout import AsyncClient, Client

def program(client: Client) -> None:
    Client(url=3)  # wrong
    Client("http://x", timeot=3)  # wrong
    Client("http://x", buffer="many")  # wrong
    client.post("/x", jsn={})  # wrong
    client.put("/x", jsn={})  # wrong
    client.stream("GET", "/x", jsn=1)  # wrong
    client.infer("digits", [1, 2])  # wrong
    client.decide("r", units="u")  # wrong
    client.report("AQ")  # wrong
    client.flush(timeout="soon")  # wrong
    response = client.post("/x")
    response.decisions  # wrong
    response.decision.reward("correct", "yes")  # wrong
    response.decision.reward("correct", [True])  # wrong
    response.decision.reward(3, True)  # wrong
    response.decision.rewrd("correct", True)  # wrong
    response.decision.reward("correct", True, tags={"a": 3})  # wrong

async def main(client: AsyncClient) -> None:
    client.post("/x").decision  # wrong
    response = await client.post("/x")
    response.decision.reward("a", [1])  # wrong
    await client.put("/x", jsn={})  # wrong
"""


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_checker_finds_what_is_wrong_and_nothing_else(checker: str, tmp_path: Path) -> None:
    if checker == "pyright" and not installed("pyright"):
        pytest.skip("'make lint' installs pyright from npm")
    expected = set()
    for name, program in (("right", RIGHT), ("wrong", WRONG)):
        (tmp_path / f"{name}.py").write_text(program)
        lines = enumerate(program.splitlines(), 1)
        expected |= {(name, number) for number, line in lines if line.endswith("# wrong")}
    command = [*CHECKERS[checker], "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    found = re.findall(r"(right|wrong)\.py:(\d+).* error: ", done.stdout)
    assert {(name, int(line)) for name, line in found} == expected, done.stdout + done.stderr
