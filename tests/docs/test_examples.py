"""Each directory of examples/, run as its README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway.config.load import load
from gateway.engines.kubernetes.http_route import read
from gateway.engines.kubernetes.rows import FORMAT
from tests.compat.canary import compared_or_dropped
from tests.deploy.helm import CHART, NEEDS_HELM, render
from tests.deploy.test_chart import of_kind, validate
from tests.docs.reader import ROOT, Reader, blocks, wait_for

pytestmark = pytest.mark.slow


def rolled_back(reader: Reader, client: str) -> None:
    assert reader.shell(client) == "{200: 400}\n", "a client noticed"
    wait_for(
        lambda: reader.route("predict")["rollout"]["state"] == "rolled_back", "the candidate is rolled back"
    )


def learned(reader: Reader, client: str) -> None:
    reader.shell(client)
    wait_for(lambda: reader.route("chat")["allocation"]["lower"] > 0.9, "the better model gets the traffic")


def compared(reader: Reader, client: str) -> None:
    """From 0.505 to 0.6 the labels differ: 20 of 200. A busy machine may drop copies; then the client runs again."""
    before, runs = (0, 0), 0
    while (now := _compared(reader, client))[0] < before[0] + 200:
        before, runs = now, runs + 1
        assert runs < 10, "copies of every run were dropped"
    assert now[1] - before[1] == 180


def _compared(reader: Reader, client: str) -> tuple[int, int]:
    """After another run: responses of the shadow that were compared, and those that agreed."""
    reader.shell(client)

    def done() -> bool:
        report = reader.route("classify")
        offered: int = report["shadow_counts"]["v2"]["offered"]
        return compared_or_dropped(report, "v2") == offered

    wait_for(done, "every copy is compared or dropped")
    agreement = reader.route("classify")["agreement"]["v2"]
    return agreement["compared"], round(agreement["compared"] * (agreement["rate"] or 0.0))


CLUSTER = ROOT / "examples/kubernetes_canary"
CHECKED = {CLUSTER.name, "kubernetes_quickstart"}
"""Those that need a cluster: see below, and tests/docs/test_kubernetes_quickstart.py."""
EXAMPLES = {
    "fastapi_canary": (("9001", "9002"), rolled_back, "rolled_back"),
    "openai_bandit": (("9001",), learned, "lower 9"),
    "shadow_comparison": (("9001", "9002"), compared, '"primary":"high","shadow":"low"'),
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()} == CHECKED | set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_does_what_its_readme_says(name: str, tmp_path: Path) -> None:
    ports, outcome, shown = EXAMPLES[name]
    servers, gateway, client, status = blocks(f"examples/{name}/README.md", "sh")
    with Reader(tmp_path, *ports) as reader:
        for file in (ROOT / "examples" / name).glob("*.*"):
            reader.save(file.name, file.read_text())
        reader.shell(servers)
        reader.wait(*ports)
        reader.shell(gateway)
        reader.wait_ready()
        outcome(reader, client)
        assert shown in reader.shell(status)


@NEEDS_HELM
def test_the_commands_of_the_kubernetes_example_make_valid_objects(tmp_path: Path) -> None:
    check, install = blocks("examples/kubernetes_canary/README.md", "sh")
    (written,) = [line for line in install.splitlines() if "values.yaml" in line and "helm" not in line]
    with Reader(tmp_path) as reader:
        reader.save("turnout.yaml", (CLUSTER / "turnout.yaml").read_text())
        assert "valid, 1 route" in reader.shell(check)
        reader.shell(written)
    (chart,) = re.findall(r"--install turnout (\S+)", install)
    assert (CLUSTER / chart).resolve() == CHART
    documents = render(
        "turnout", **yaml.safe_load((tmp_path / "values.yaml").read_text()), secrets=["turnout"]
    )
    for document in documents:
        validate(document)
    assert of_kind(documents, "Role")["metadata"]["namespace"] == "prod"
    assert of_kind(documents, "Deployment")["metadata"]["name"] == "turnout"


def test_the_files_of_the_kubernetes_example_fit_together() -> None:
    document = load((CLUSTER / "turnout.yaml").read_text(), source="example", env={"CLUSTER_TOKEN": "t" * 32})
    route = yaml.safe_load((CLUSTER / "httproute.yaml").read_text())
    assert document.httproute("digits") == (route["metadata"]["namespace"], route["metadata"]["name"])
    served = {**route, "metadata": {**route["metadata"], "resourceVersion": "1", "generation": 1}}
    (rule,) = read(served, "prod/digits", tuple(document.routes["digits"].variants)).rules
    assert rule.weights == {"v1": 1, "v2": 0}
    proxy, policy = yaml.safe_load_all((CLUSTER / "envoyproxy.yaml").read_text())
    (log,) = proxy["spec"]["telemetry"]["accessLog"]["settings"]
    assert log["format"]["text"] == FORMAT
    assert policy["spec"]["headers"]["earlyRequestHeaders"] == {"remove": ["x-turnout-variant"]}
    collector = yaml.safe_load((CLUSTER / "collector.yaml").read_text())
    exporter = collector["exporters"]["otlphttp/turnout"]
    assert exporter["logs_endpoint"].endswith("/-/engines/rows")
    assert exporter["compression"] == "none", "the gateway does not decompress bodies"
