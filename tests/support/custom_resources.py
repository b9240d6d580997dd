"""Custom resources of Kubernetes against their published schemas, which are npm packages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import FOLDER, NODE, installed

Json = dict[str, Any]
PACKAGES = {
    "argoproj.io": "argo-rollouts",
    "gateway.envoyproxy.io": "envoy-gateway",
    "gateway.networking.k8s.io": "gateway-api",
    "monitoring.coreos.com": "prometheus-operator",
}
NEEDS_SCHEMAS = pytest.mark.skipif(
    not installed("@kubernetes-models/argo-rollouts"),
    reason="'make lint' installs them from npm",
)


def said(*objects: Json) -> list[list[Json]]:
    """What the schema of its kind says against each object."""
    return against(*((each["apiVersion"], each["kind"], each) for each in objects))


def against(*parts: tuple[str, str, Json]) -> list[list[Json]]:
    """What the schema of an API version and a type says against each part of an object."""
    lines = []
    for api, name, part in parts:
        group, _, version = api.partition("/")
        lines.append(json.dumps([PACKAGES[group], version.capitalize() + name, part]))
    done = subprocess.run(
        [NODE, str(Path(__file__).with_suffix(".mjs")), str(FOLDER)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
