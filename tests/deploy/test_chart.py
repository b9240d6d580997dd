"""The Helm chart: linted and rendered by Helm, validated against Kubernetes' schemas, its configuration by us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from gateway.config.load import load
from tests.deploy.helm import CHART, NEEDS_HELM, TOOLS, HelmError, call, render
from tests.support.custom_resources import NEEDS_SCHEMAS, said

pytestmark = NEEDS_HELM

SCHEMAS = TOOLS / "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict"
SERVED: dict[str, Any] = {
    "backends": {"models": {"url": "http://models:8000"}},
    "routes": {
        "digits": {
            "match": {"path": "/v2/models/digits"},
            "variants": {"v1": {"backend": "models"}},
            "policy": {"type": "single", "variant": "v1"},
        }
    },
}
DEFAULTS: dict[str, Any] = {"config": SERVED}
SQLITE: dict[str, Any] = {
    "replicas": 1,
    "config": {**SERVED, "listen": "0.0.0.0:9000", "store": "sqlite:////var/lib/turnout/turnout.db"},
}
EVERYTHING: dict[str, Any] = {
    **DEFAULTS,
    "secrets": ["redis"],
    "workers": 2,
    "imagePullSecrets": [{"name": "registry"}],
    "persistence": {"enabled": True, "storageClass": "fast"},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {}}],
        "to": [{"to": [{"podSelector": {}}], "ports": [{"port": 6379}]}],
    },
    "serviceMonitor": {"enabled": True, "keySecret": {"name": "metrics"}, "labels": {"release": "p"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "p"}},
    "service": {"annotations": {"a": "b"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
}
ROUTE: dict[str, Any] = {
    "engine": "cluster",
    "variants": {"v1": {}},
    "policy": {"type": "single", "variant": "v1"},
}
WEIGHTS: dict[str, Any] = {
    "config": {
        "engines": {
            "cluster": {"type": "kubernetes", "token": "a-token-of-the-collector"},
            "other": {
                "type": "kubernetes",
                "token": "a-token-of-another",
                "server": "https://10.0.0.1:6443",
                "server_token": "${REDIS_PASSWORD}",
            },
        },
        "routes": {
            "digits": ROUTE,
            "letters": {**ROUTE, "httproute": "ml/letters-v2"},
            "far": {**ROUTE, "engine": "other"},
        },
    }
}
VARIANTS = {"defaults": DEFAULTS, "sqlite": SQLITE, "everything": EVERYTHING, "weights": WEIGHTS}


def schema(name: str) -> Resource[Any]:
    """A published schema by the last part of its address."""
    found = json.loads((SCHEMAS / name.rpartition("/")[2]).read_text())
    return Resource.from_contents(found, default_specification=DRAFT7)


def validate(document: dict[str, Any]) -> None:
    """Against the strict schema of its kind: unknown fields are errors."""
    group, _, version = document["apiVersion"].rpartition("/")
    name = "-".join(filter(None, [document["kind"].lower(), group.split(".")[0], version])) + ".json"
    registry: Registry[Any] = Registry(retrieve=schema)  # type: ignore[call-arg]
    jsonschema.Draft7Validator(schema(name).contents, registry=registry).validate(document)


def of_kind(documents: list[dict[str, Any]], *kinds: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] in kinds]
    return found


def test_helm_finds_nothing_to_say() -> None:
    report = json.loads(call("helm_lint", paths=[str(CHART)], strict=True))
    assert [m for m in report["messages"] if m["severity"] != "INFO"] == []
    assert report["passed"]


@pytest.mark.parametrize("name", VARIANTS)
def test_objects_are_valid(name: str) -> None:
    documents = render(**VARIANTS[name])
    for document in documents:
        if document["apiVersion"].startswith("monitoring.coreos.com"):
            continue  # of the Prometheus operator: see below
        validate(document)
    pod = of_kind(documents, "Deployment", "StatefulSet")["spec"]["template"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["automountServiceAccountToken"] is (name == "weights")


def test_the_validation_can_fail() -> None:
    service = of_kind(render(**DEFAULTS), "Service")
    service["spec"]["prots"] = []
    with pytest.raises(jsonschema.ValidationError, match="prots"):
        validate(service)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_configuration_is_one_that_the_gateway_takes(name: str) -> None:
    documents = render(**VARIANTS[name])
    text = of_kind(documents, "ConfigMap")["data"]["turnout.yaml"]
    document = load(text, source="chart", env={"REDIS_PASSWORD": "x"})
    container = of_kind(documents, "Deployment", "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert document.listen.endswith(f":{container['ports'][0]['containerPort']}")


def test_the_configuration_is_that_of_the_values_and_no_example() -> None:
    text = of_kind(render(**DEFAULTS), "ConfigMap")["data"]["turnout.yaml"]
    assert {key: yaml.safe_load(text)[key] for key in SERVED} == SERVED


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (DEFAULTS, "Deployment"),
        (SQLITE, "StatefulSet"),
        ({**DEFAULTS, "persistence": {"enabled": True}}, "StatefulSet"),
    ],
    ids=["redis", "sqlite", "persistent spool"],
)
def test_what_must_not_be_lost_has_a_volume(values: dict[str, Any], kind: str) -> None:
    workload = of_kind(render(**values), "Deployment", "StatefulSet")
    assert workload["kind"] == kind
    volumes = {v["name"] for v in workload["spec"]["template"]["spec"]["volumes"]}
    claims = {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
    assert ("data" in volumes, "data" in claims) == ((kind == "Deployment"), (kind == "StatefulSet"))


def test_pods_may_write_the_httproutes_of_their_routes_and_no_others() -> None:
    documents = render(**WEIGHTS)
    roles = {d["metadata"]["namespace"] or "default": d["rules"] for d in documents if d["kind"] == "Role"}
    assert {namespace: rules[0]["resourceNames"] for namespace, rules in roles.items()} == {
        "default": ["digits"],
        "ml": ["letters-v2"],
    }
    assert all(rules[0]["verbs"] == ["get", "patch"] and len(rules) == 1 for rules in roles.values())
    account = of_kind(documents, "ServiceAccount")["metadata"]["name"]
    bound = [d for d in documents if d["kind"] == "RoleBinding"]
    assert {d["metadata"]["namespace"] or "default" for d in bound} == set(roles)
    assert all(d["subjects"][0]["name"] == account for d in bound)
    pod = of_kind(documents, "Deployment")["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == account
    assert not {d["kind"] for d in render(**DEFAULTS)} & {"ServiceAccount", "Role", "RoleBinding"}


def test_one_pod_needs_no_disruption_budget_and_several_do() -> None:
    assert "PodDisruptionBudget" not in {d["kind"] for d in render(**SQLITE)}
    assert of_kind(render(**DEFAULTS), "PodDisruptionBudget")["spec"]["minAvailable"] == 1


@NEEDS_SCHEMAS
def test_the_objects_of_the_prometheus_operator_are_valid() -> None:
    documents = render(**EVERYTHING)
    rule, monitor = of_kind(documents, "PrometheusRule"), of_kind(documents, "ServiceMonitor")
    wrong = {**monitor, "spec": {**monitor["spec"], "selector": []}}
    assert [bool(errors) for errors in said(rule, monitor, wrong)] == [False, False, True]


def test_alert_rules_are_those_that_promtool_tests() -> None:
    rule = of_kind(render(**EVERYTHING), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    monitor = of_kind(render(**EVERYTHING), "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["path"] == "/-/metrics"
    assert monitor["spec"]["endpoints"][0]["authorization"] == {
        "credentials": {"name": "metrics", "key": "key"}
    }
    service = of_kind(render(**EVERYTHING), "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**SQLITE, "replicas": 2}, "an SQLite store belongs to one pod"),
        ({}, "the gateway would serve nothing: write config.backends"),
        (
            {"replicas": 1, "config": {**SERVED, "store": "sqlite:///turnout.db"}},
            "the volume is at /var/lib/turnout",
        ),
        ({"config": {**SERVED, "shutdown": {"grace": "2m"}}}, r"\(45\) must be above shutdown.grace \(2m\)"),
        ({"config": {**SERVED, "shutdown": {"grace": "1d"}}}, r"\(45\) must be above shutdown.grace \(1d\)"),
        ({**DEFAULTS, "terminationGracePeriodSeconds": 30}, r"\(30\) must be above shutdown.grace \(30s\)"),
        ({**DEFAULTS, "terminationGracePeriodSeconds": 33}, r"\(33\) must be above .* and the 3 s before it"),
        ({"replicass": 1}, "replicass"),
        ({"service": {"type": "Ingress"}}, "type"),
    ],
)
def test_what_would_lose_something_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError, match=said):
        render(**values)


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in text
