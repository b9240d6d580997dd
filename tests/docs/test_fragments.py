"""Blocks of reference pages that are parts of something: completed here, and given to what reads them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.config.load import load
from tests.docs.reader import Reader, blocks

CONFIGURATION = """
listen: 127.0.0.1:8080
metrics: {correct: {type: boolean}}
backends: {a: {url: "http://127.0.0.1:1"}, b: {url: "http://127.0.0.1:1"}}
routes:
  predict:
    match: {path: /predict}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, text: sound}}]
"""
PARTS = [
    (page, block)
    for page in ("auth", "security", "comparison", "tracing")
    for block in blocks(f"docs/{page}.md", "yaml")
]


@pytest.mark.parametrize(("page", "part"), PARTS, ids=[f"{page}-{n}" for n, (page, _) in enumerate(PARTS)])
def test_a_part_of_the_configuration_is_taken(page: str, part: str) -> None:
    whole = yaml.safe_load(CONFIGURATION) | yaml.safe_load(part)
    if "auth" in whole:
        whole["auth"] |= {"keys": [{"id": "me", "hash": f"sha256:{'0' * 64}", "scopes": ["admin"]}]}
    load(yaml.safe_dump(whole), source=page, env={"TRACES_TOKEN": "x"})


@pytest.mark.slow
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    (part,) = blocks("docs/dashboard.md", "yaml")
    (tmp_path / "prometheus.yaml").write_text(part)
    words = ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_calls_of_the_api_page(tmp_path: Path) -> None:
    feedback, edit = blocks("docs/api.md", "sh")
    with Reader(tmp_path) as reader:
        key = reader.shell("turnout keys new --id me --scopes admin")
        (secret,) = re.findall(r"^  (tk_\w+)$", key, re.MULTILINE)
        (line,) = re.findall(r"^    - \{id: .*$", key, re.MULTILINE)
        reader.save("turnout.yaml", f"{CONFIGURATION}auth:\n  keys:\n{line}\n")
        reader.shell("turnout run &")
        reader.wait_ready()
        headers = {"x-api-key": secret}
        decision = httpx.post(f"{reader.url()}/predict", headers=headers).headers["x-decision-id"]
        sent = reader.shell(f"KEY={secret}\n{feedback.replace('AQGj…', decision)}")
        assert '"accepted":1' in sent
        reader.shell(f"KEY={secret}\nEDITOR='sed -i s/sound/well/'\n{edit}")
        assert httpx.post(f"{reader.url()}/predict", headers=headers).text == "well"
