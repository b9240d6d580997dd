"""What users can touch is documented: metrics, commands and their options, and links lead somewhere."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from gateway.cli import COMMANDS
from gateway.errors import CODES
from gateway.telemetry.metrics import Metrics
from tests.test_architecture import ORDER

ROOT = Path(__file__).parent.parent
ROOMS = ("backends", "benchmarks", "dashboards", "deploy", "docs", "examples", "gateway", "policies", "tests")
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"), *ROOT.glob("*.md")])
NO_REPORT = {"run", "backend", "engine", "schema", "completion"}
"""Commands that serve, or print a file of another format."""


def test_every_metric_is_documented_and_no_other() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    real = {f"{m.name}_total" if m.type == "counter" else m.name for m in Metrics().registry.collect()}
    assert set(re.findall(r"^\| `(turnout_\w+)`", text, re.MULTILINE)) == real


def test_every_label_is_documented() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    made = Metrics()
    for found in vars(made).values():
        labels = getattr(found, "_labelnames", None)
        if labels:
            name = found.describe()[0].name
            row = re.search(rf"^\| `{name}(?:_total)?` \| ([^|]*)\|", text, re.MULTILINE)
            assert row is not None, name
            assert [label.strip() for label in row[1].split(",")] == list(labels)


def options(command: str) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    import_module(COMMANDS[command][0]).add_arguments(parser)
    seen = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                seen += sub._actions
    return {option for action in seen for option in action.option_strings} - {"-h", "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = (ROOT / "docs/commands.md").read_text() + (ROOT / "docs/backend.md").read_text()
    assert f"turnout {name}" in text
    for option in options(name):
        assert option in text, f"turnout {name} {option}"


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NO_REPORT))
def test_every_command_that_reports_takes_json(name: str) -> None:
    assert "--json" in options(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} → {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_file_that_a_page_names_is_there(page: Path) -> None:
    """Code that has moved must be found again by the reader."""
    if page.name == "CHANGELOG.md":
        return
    text = page.read_text()
    named = re.findall(rf"[` ]((?:{'|'.join(ROOMS)})/[\w./-]*\w)", text)
    modules = re.findall(r"python -m ((?:benchmarks|backends|tests)(?:\.\w+)*)", text)
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    missing += [name for name in modules if not _module(name)]
    assert not missing


def _module(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.with_suffix(".py").exists() or (place / "__main__.py").exists()


def test_the_architecture_lists_every_package_in_order() -> None:
    table = (ROOT / "docs/architecture.md").read_text().split("Inside `gateway/`")[1].split("## Four")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)/?`", row)]
    packages = [row.removeprefix("gateway.") for row in ORDER if row.startswith("gateway.")]
    assert [name for name in listed if name in packages] == packages


def test_every_error_code_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    missing = [code for code in CODES if f"`{code}`" not in text]
    assert not missing


@pytest.mark.slow
def test_the_site_builds_with_every_page_and_no_broken_link(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*words, "-f", str(ROOT / "deploy/mkdocs.yml")], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/quickstart/index.html").exists()
