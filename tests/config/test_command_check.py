"""``turnout check``: what it prints and how it exits."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from gateway import cli
from gateway.commands import check
from gateway.config.given_up import TABLES

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.main(parser.parse_args(arguments))


def test_the_example_passes_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(EXAMPLE)) == 0
    assert capsys.readouterr().out == f"{EXAMPLE}: valid, 2 routes, 1 backend, 1 metric\n"


def test_faults_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(EXAMPLE.read_text().replace("metric: correct", "metric: corect").replace("1%  ", "5  "))
    assert run(str(file)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "routes.digits.policy.metric: there is no metric 'corect'" in lines[0]
    assert "routes.digits.policy.floor: 5 is more than the whole; write 5%" in lines[1]
    assert lines[2] == f"{file}: refused, 2 faults"


def test_variables_for_traces_are_checked_as_a_start_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert run(str(EXAMPLE)) == 0
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "sometimes")
    assert run(str(EXAMPLE)) == 1
    assert "telemetry.traces: the gateway can't be built" in capsys.readouterr().out
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert run(str(EXAMPLE)) == 0
    assert "warning: " in (said := capsys.readouterr().out)
    assert "write OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in said
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    assert run(str(EXAMPLE)) == 0
    assert "warning" not in capsys.readouterr().out


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("listen: 0.0.0.0:80\nroutez: {}\n")
    assert run(str(file), "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "file": str(file),
        "valid": False,
        "faults": [
            {
                "line": 2,
                "column": 1,
                "path": "routez",
                "message": "there is no key 'routez'; known: auth, backends, browsers, config, control, engines, "
                "feedback, limits, listen, loops, metrics, record, routes, shutdown, store, telemetry, tls, "
                "trusted_proxies, webhooks",
                "hint": "did you mean 'routes'?",
            }
        ],
        "warnings": [],
        "given_up": [],
    }


ENGINES = """
backends: {a: {url: "http://127.0.0.1:9001"}, b: {url: "http://127.0.0.1:9002"}}
engines:
  edge: {type: envoy, token: a-token-of-the-envoys}
  cheap: {type: haproxy, token: a-token-of-the-haproxies, ids: sealed}
  cluster: {type: kubernetes, token: a-token-of-the-cluster}
  idle: {type: envoy, token: a-token-without-a-route}
routes:
  one: &route
    engine: edge
    match: {path: /one}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: split, weights: {v1: 95, v2: 5}}
  two: {<<: *route, match: {path: /two}}
  three: {<<: *route, match: {path: /three}, engine: cheap, timeouts: {total: null}}
  four: {engine: cluster, variants: {v1: {}, v2: {}}, policy: {type: split, weights: {v1: 95, v2: 5}}}
"""


def test_a_valid_file_is_told_what_its_engines_give_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(ENGINES)
    assert run(str(file)) == 0
    envoy, haproxy, weights = capsys.readouterr().out.split("given up on the engine ")[1:]
    assert envoy.startswith("edge (envoy) by one, two:\n")
    assert "  'timeouts.first_byte': first byte, as the timeout of one attempt\n" in envoy
    assert "  reward of a request that never happened: " in envoy
    assert "fallback to other variants" not in envoy
    assert haproxy.startswith("cheap (haproxy) by three:\n")
    assert "  times in the record: milliseconds\n" in haproxy
    assert "never happened" not in haproxy
    assert "shadows" not in envoy + haproxy, "what is refused needs no mention: a valid file does not have it"
    assert "  units: a client stays on its variant: no, each request is assigned on its own\n" in weights
    assert weights.endswith(f"\n{file}: valid, 4 routes, 2 backends, 0 metrics\n")
    assert run(str(file), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["engine"], each["routes"]) for each in found["given_up"]] == [
        ("edge", ["one", "two"]),
        ("cheap", ["three"]),
        ("cluster", ["four"]),
    ]
    assert found["warnings"] == []


@pytest.mark.parametrize(("page", "table"), [*zip(["engines", "kubernetes"], TABLES, strict=True)])
def test_the_docs_have_the_same_tables(page: str, table: str) -> None:
    assert f"\n{table}\n" in (EXAMPLE.parent / f"docs/{page}.md").read_text()


def test_warnings_exit_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("listen: 0.0.0.0:80\ntls: {cert: nowhere.pem, key: nowhere.key}\n")
    assert run(str(file)) == 0
    out = capsys.readouterr().out
    assert "warning: " in out
    assert f"{file}:1:9: listen: without 'auth'" in out
    assert "tls.cert: there is no file 'nowhere.pem' here" in out
    assert run(str(file), "--json") == 0
    assert [w["path"] for w in json.loads(capsys.readouterr().out)["warnings"]] == [
        "",
        "listen",
        "tls.cert",
        "tls.key",
    ]


def test_files_that_are_here_must_be_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A start would refuse them; missing ones may be where the gateway runs."""
    file, ca = tmp_path / "c.yaml", tmp_path / "ca.pem"
    ca.write_text("no certificate")
    file.write_text(f"backends: {{a: {{url: 'https://x', tls: {{ca: '{ca}'}}}}}}")
    assert run(str(file)) == 1
    assert f"backends.a.tls.ca: '{ca}' holds no certificates in PEM form" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "byte 1 is not UTF-8"), (b"x" * 5_000_000, "more than"), (b"", "is empty")],
)
def test_unreadable_files(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    assert run(str(file)) == 1
    assert said in capsys.readouterr().out


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "none.yaml")) == 1
    assert "there is no such file" in capsys.readouterr().out
    assert run(str(tmp_path)) == 1
    assert "the file can't be read: Is a directory" in capsys.readouterr().out


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("routes: {"))
    assert run("-") == 1
    assert capsys.readouterr().out.startswith("standard input:2:1: not valid YAML: ")


def test_variables_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("listen: ${TURNOUT_TEST_LISTEN}\nroutes: {}\n")
    monkeypatch.delenv("TURNOUT_TEST_LISTEN", raising=False)
    assert run(str(file)) == 1
    monkeypatch.setenv("TURNOUT_TEST_LISTEN", "127.0.0.1:1")
    assert run(str(file)) == 0


def test_a_misspelt_option_shows_the_usage_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "--jsn"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: turnout check ")
    assert "unrecognized arguments: --jsn; did you mean '--json'?" in said
