"""docs/deployment.md: its commands name what the image, the compose file and the chart expect."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gateway.config.load import load
from tests.deploy.helm import CHART, NEEDS_HELM, render
from tests.deploy.test_chart import of_kind, validate
from tests.docs.reader import ROOT, Reader, blocks

PAGE = "docs/deployment.md"
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
CONTAINER, COMPOSE, CLUSTER = blocks(PAGE, "sh")


def test_a_container_has_its_volume_configuration_and_port_where_the_image_does() -> None:
    _, run = CONTAINER.replace("\\\n", "").splitlines()
    words = shlex.split(run.replace("$PWD", ""))
    mounts = [words[at + 1].split(":")[1] for at, word in enumerate(words) if word == "-v"]
    entry = re.findall(r'^CMD \["run", "--config", "(.*)"\]$', DOCKERFILE, re.MULTILINE)
    volume = re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.MULTILINE)
    assert mounts == entry + volume
    port = words[words.index("-p") + 1].split(":")[1]
    assert f"EXPOSE {port}\n" in DOCKERFILE
    text = (ROOT / PAGE).read_text()
    assert f"listen: 0.0.0.0:{port}`" in text
    assert f"`store: sqlite:///{volume[0]}/turnout.db`" in text


@pytest.mark.slow
def test_the_compose_file_gets_every_variable_that_it_wants(tmp_path: Path) -> None:
    compose = (ROOT / "deploy/compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+)\W", compose)) | {"METRICS_KEY"}
    keys, up = COMPOSE.splitlines()
    assert set(re.findall(r"(\w+)=", up)) == wanted
    assert (ROOT / up.split(" -f ")[1].split()[0]).exists()
    with Reader(tmp_path) as reader:
        printed = reader.shell(keys)
    assert re.search(r"^  tk_\w+$", printed, re.MULTILINE)
    assert re.search(r'hash: "sha256:\w{64}"', printed)


@NEEDS_HELM
def test_the_values_are_those_of_the_chart() -> None:
    values = yaml.safe_load(blocks(PAGE, "yaml")[0])
    documents = render(**values)
    for document in documents:
        if not document["apiVersion"].startswith("monitoring"):
            validate(document)
    text = of_kind(documents, "ConfigMap")["data"]["turnout.yaml"]
    secret, variable = re.findall(r"secret generic (\S+) --from-literal (\w+)=", CLUSTER)[0]
    assert load(text, source=PAGE, env={variable: "x"}).backends.keys() == {"models"}
    container = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": secret}}]
    assert CLUSTER.count(container["image"]) == 2, "the image that is built and pushed"
    assert f"helm install turnout {CHART.relative_to(ROOT)} " in CLUSTER
