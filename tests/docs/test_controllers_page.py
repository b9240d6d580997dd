"""docs/controllers.md: its key opens the verdict to its pipeline; Argo's objects are valid by their schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.docs.reader import Reader, blocks
from tests.support.custom_resources import NEEDS_SCHEMAS, against, said

PAGE = "docs/controllers.md"
CONFIGURATION = """
listen: 127.0.0.1:8080
backends: {models: {url: "http://127.0.0.1:1"}}
routes:
  checkout:
    match: {path: /checkout}
    variants: {v1: {backend: models}, v2: {backend: models}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 10%, for: 1h}]
      on_success: wait
      guardrails: [{metric: error_rate, max_increase: 1%}]
auth:
  keys:
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path) as found:
        yield found


@pytest.mark.slow
def test_a_pipeline_ends_with_the_verdict(reader: Reader) -> None:
    new_key, pipeline = blocks(PAGE, "sh")
    argo = reader.shell(new_key)
    pilot = reader.shell("turnout keys new --id pilot --scopes steer")
    lines = [
        line for printed in (argo, pilot) for line in re.findall(r"^    - \{id: .*$", printed, re.MULTILINE)
    ]
    secret, steering = (re.findall(r"^  (tk_\w+)$", printed, re.MULTILINE)[0] for printed in (argo, pilot))
    reader.save("turnout.yaml", CONFIGURATION + "\n".join(lines))
    reader.shell("turnout check && turnout run &")
    reader.wait_ready()
    for action, code, verdict in (("rollback", 1, "fail"), ("restart", 0, ""), ("promote", 0, "pass")):
        _steer(reader, steering, action)
        if verdict:
            reader.shell(f"KEY={secret}\n({pipeline})\ntest $? = {code}")
            assert f'"{verdict}"' in (reader.folder / "verdict.json").read_text()


def _steer(reader: Reader, key: str, action: str) -> None:
    url, headers = f"{reader.url()}/-/routes/checkout/rollout", {"x-api-key": key}
    httpx.post(url, json={"action": action}, headers=headers).raise_for_status()


@NEEDS_SCHEMAS
def test_the_objects_of_argo_rollouts_are_valid() -> None:
    template, step, _ = [yaml.safe_load(block) for block in blocks(PAGE, "yaml")]
    assert said(template) == [[]]
    api = template["apiVersion"]
    (name,) = step["analysis"]["templates"]
    assert name["templateName"] == template["metadata"]["name"]
    wrong = {"templates": template}
    assert [
        bool(errors)
        for errors in against((api, "RolloutAnalysis", step["analysis"]), (api, "RolloutAnalysis", wrong))
    ] == [
        False,
        True,
    ]
