"""Alert rules, the compose file, the Grafana provisioning and the systemd unit, checked by the real tools."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.config.load import load
from gateway.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "helm/turnout/files/alerts.yaml"


def run(*words: str, cwd: Path = DEPLOY) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_passes_the_alert_rules() -> None:
    run("promtool", "check", "rules", str(RULES))
    run("promtool", "test", "rules", "prometheus/alerts.test.yaml")
    run("promtool", "check", "config", "--syntax-only", "prometheus/prometheus.yaml")


def test_every_alert_is_tested_and_every_metric_exists() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts.test.yaml").read_text())["tests"]
    fired = {t["alertname"] for t in tests[0]["alert_rule_test"] if t["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules}
    real = {f"{m.name}_total" if m.type == "counter" else m.name for m in Metrics().registry.collect()}
    for rule in rules:
        assert set(re.findall(r"turnout_\w+", rule["expr"])) <= real, rule["alert"]


def test_the_compose_file_mounts_what_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), volume
            else:
                assert source in compose["volumes"], volume
    build = compose["services"]["gateway"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).exists()


def test_the_gateway_of_the_compose_file_takes_its_configuration() -> None:
    text = (DEPLOY / "turnout.compose.yaml").read_text()
    env = {"REDIS_PASSWORD": "x", "METRICS_KEY_HASH": f"sha256:{'0' * 64}"}
    document = load(text, source="compose", env=env)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]
    assert set(env) <= set(compose["environment"])
    assert float(compose["stop_grace_period"].removesuffix("s")) > document.shutdown.grace
    assert document.record.spool is not None
    assert any(volume.endswith(":/var/lib/turnout") for volume in compose["volumes"])


def test_grafana_finds_the_dashboards_and_their_source() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/turnout.yaml").read_text())["providers"]
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    (mount,) = [v for v in volumes if v.split(":")[1] == provider["options"]["path"]]
    boards = list((DEPLOY / mount.split(":")[0]).glob("*.json"))
    assert boards
    for board in boards:
        assert json.loads(board.read_text())["uid"]
    assert source["type"] == "prometheus"


def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "turnout.service"
    text = (DEPLOY / "systemd/turnout.service").read_text()
    unit.write_text(text.replace("/opt/turnout/bin/turnout", "/bin/true"))
    said = run("systemd-analyze", "verify", str(unit), cwd=tmp_path)
    assert "turnout.service" not in said, said
    level = run("systemd-analyze", "security", "--offline=true", str(unit), cwd=tmp_path)
    exposure = re.search(r"exposure level for turnout.service: ([\d.]+)", level)
    assert exposure is not None
    assert float(exposure[1]) <= 1.5
    # The gateway raises its limits and the event loop's priority; a filter on @resources would refuse both.
    assert "@resources" not in text


@pytest.mark.parametrize(
    "path", ["deploy/runtime.lock", "pyproject.toml", "README.md", "LICENSE", "config.example.yaml"]
)
def test_the_image_copies_what_it_installs_from(path: str) -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    top = path.split("/")[0]
    assert re.search(rf"^COPY .*\b{re.escape(top)}\b", dockerfile, re.MULTILINE)
    assert f"!{top}" in ignored
    assert (ROOT / path).exists()
