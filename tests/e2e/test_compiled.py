"""The compiled form: a wheel is built with it, and what the wheel holds passes the tests of the hot path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from gateway import build

HOT_PATH = [
    "tests/wire",
    "tests/faults",
    "tests/dataplane",
    "tests/transport",
    "tests/record",
    "tests/telemetry",
    "tests/e2e/test_spine.py",
    "tests/e2e/test_life.py",
    "tests/policies/test_ejection.py",
    "tests/state/test_golden.py",
]
BESIDE = (
    "tests",
    "benchmarks",
    "docs",
    "deploy",
    "pyproject.toml",
    "config.example.yaml",
    "README.md",
    "Makefile",
)
"""What the tests need besides the packages."""

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1200)]


def _lacking() -> str:
    """What a build needs and this machine has not; "" if it has all."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"the C compiler {compiler} (Debian: gcc)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.exists() else f"Python's headers, {header} (Debian: python3-dev)"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what a compiled wheel holds, and the tests beside it."""
    if build.form() == "compiled":
        pytest.skip("the checkout itself runs compiled, so every test of this run is one of that form")
    if lacking := _lacking():
        pytest.skip(f"nothing can be compiled here without {lacking}")
    place = tmp_path_factory.mktemp("compiled")
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(place)]
    env = {**os.environ, "TURNOUT_COMPILE": "1"}
    done = subprocess.run(words, cwd=build.ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = place.glob("*.whl")
    root = place / "root"
    with zipfile.ZipFile(wheel) as found:
        found.extractall(root)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in BESIDE:
        source = build.ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=ignore)
        else:
            shutil.copy(source, root / name)
    return root


def _told(root: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_what_runs_there_is_compiled_and_says_so(compiled: Path) -> None:
    assert f"turnout {build.version()} (compiled by mypyc " in _told(
        compiled, "-m", "gateway.cli", "--version"
    )
    where = _told(compiled, "-c", "from gateway.dataplane.client import protocol; print(protocol.__file__)")
    assert where.strip() == str(build.extension(compiled / "gateway/dataplane/client/protocol.py"))


def test_every_module_that_should_be_is_compiled(compiled: Path) -> None:
    assert sorted(build.sources(compiled)) == sorted(build.sources())
    assert build.fault(compiled, build.digests(build.sources())) == ""


def test_an_edited_source_is_noticed_at_start(compiled: Path, tmp_path: Path) -> None:
    root = tmp_path / "edited"
    shutil.copytree(compiled, root, ignore=shutil.ignore_patterns("tests", "docs", "benchmarks"))
    with (root / "policies/allocation/bucketing.py").open("a") as file:
        file.write("# edited\n")
    told = _told(root, "-m", "gateway.cli", "check", "config.example.yaml")
    assert told.startswith(
        "turnout: Changed since the build was compiled: policies/allocation/bucketing.py; run 'make compiled'"
    )


def test_the_hot_path_passes_its_tests(compiled: Path) -> None:
    parallel = ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel, *HOT_PATH]
    done = subprocess.run(words, cwd=compiled, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, (done.stdout + done.stderr)[-20_000:]
