"""docs/tracing.md: its section of the configuration, with a real collector at its endpoint."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.docs.reader import Reader, blocks
from tests.support.predict import PREDICT
from tests.telemetry.collector import collector

pytestmark = pytest.mark.slow

CONFIGURATION = f"""
listen: 127.0.0.1:8080
{PREDICT}"""


def test_spans_arrive_as_the_page_configures_it(tmp_path: Path) -> None:
    (section,) = blocks("docs/tracing.md", "yaml")
    assert "sample: 1%" in section
    with Reader(tmp_path, "4318") as reader, collector(reader.ports["4318"]) as receiver:
        reader.save("turnout.yaml", CONFIGURATION + section.replace("sample: 1%", "sample: 100%"))
        reader.shell("TRACES_TOKEN=secret turnout run &")
        reader.wait_ready()
        httpx.post(f"{reader.url()}/predict")
        request, attempt = sorted(receiver.wait(2), key=lambda span: span.kind, reverse=True)
    assert (request.name, attempt.name, attempt.parent) == ("POST /predict", "POST v1", request.span_id)
    assert request.resource["deployment.environment.name"] == "production"
    assert {(path, fields["authorization"]) for path, fields in receiver.heads} == {
        ("/v1/traces", "Bearer secret")
    }
