"""docs/kubernetes_quickstart.md without a cluster: its objects validated, what they run run, and its requests sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.helm import NEEDS_HELM, render
from tests.deploy.test_chart import of_kind, validate
from tests.docs.reader import ROOT, Reader, blocks, wait_for

PAGE = "docs/kubernetes_quickstart.md"
EXAMPLE = ROOT / "examples/kubernetes_quickstart"
MODELS = list(yaml.safe_load_all((EXAMPLE / "models.yaml").read_text()))
GATEWAY = list(yaml.safe_load_all((EXAMPLE / "gateway.yaml").read_text()))
VALUES = yaml.safe_load((EXAMPLE / "values.yaml").read_text())


@NEEDS_HELM
def test_the_objects_are_valid_and_the_plain_ones_are_those_of_the_chart() -> None:
    assert render("turnout", **VALUES) == GATEWAY, "render examples/kubernetes_quickstart/gateway.yaml again"
    for document in (*MODELS, *GATEWAY):
        validate(document)


def test_the_page_shows_its_files_and_names_what_is_in_them() -> None:
    assert blocks(PAGE, "yaml") == [(EXAMPLE / "values.yaml").read_text()]
    commands = "".join(blocks(PAGE, "sh"))
    workload, service = of_kind(GATEWAY, "StatefulSet"), of_kind(GATEWAY, "Service")
    name = workload["metadata"]["name"]
    assert f"statefulset/{name}\n" in commands
    assert f"exec {name}-0 --" in commands
    assert f"service/{service['metadata']['name']} 8080:{service['spec']['ports'][0]['port']} &" in commands
    image = workload["spec"]["template"]["spec"]["containers"][0]["image"]
    assert commands.count(image) == 2, "the image that is built and loaded"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_services_select_the_pods_of_their_version(version: str) -> None:
    deployment, service = _named("Deployment", version), _named("Service", version)
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["port"] == 80, "http://sums-v1 has no port"


@pytest.mark.slow
def test_the_canary_rolls_back_by_itself(tmp_path: Path) -> None:
    *_, one, many, status, _ = blocks(PAGE, "sh")
    with Reader(tmp_path, "9001", "9002") as reader:
        reader.save("server.py", of_kind(MODELS, "ConfigMap")["data"]["server.py"])
        text = of_kind(GATEWAY, "ConfigMap")["data"]["turnout.yaml"]
        for number, version in ((1, "v1"), (2, "v2")):
            reader.shell(f"PORT=900{number} {_environment(version)} python {_script(version)} &")
            text = text.replace(f"http://sums-{version}", f"http://127.0.0.1:900{number}")
        reader.save(
            "turnout.yaml", text.replace("0.0.0.0", "127.0.0.1").replace("/var/lib/turnout", str(tmp_path))
        )
        reader.shell("turnout run &")
        reader.wait_ready()
        assert '{"sum": 6}' in reader.shell(one)
        assert reader.shell(many).split() == ["600", "200"], "a client noticed"
        wait_for(lambda: reader.route("predict")["rollout"]["state"] == "rolled_back", "it is rolled back")
        seen = reader.shell(status.replace("kubectl exec turnout-0 -- ", ""))
        assert "rolled_back" in seen
        assert "v2 0.0%" in seen


def _named(kind: str, version: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [d for d in MODELS if (d["kind"], d["metadata"]["name"]) == (kind, f"sums-{version}")]
    return found


def _container(version: str) -> dict[str, Any]:
    (found,) = _named("Deployment", version)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def _environment(version: str) -> str:
    return " ".join(f"{each['name']}={each['value']}" for each in _container(version).get("env", []))


def _script(version: str) -> str:
    command, path = _container(version)["command"]
    assert command == "python"
    return str(Path(path).relative_to("/app"))
