"""The compiled form: a wheel is built with it, runs the demo, and passes the tests of the hot path."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from gateway import build
from tests.e2e.test_demo import example
from tests.support.deployed import deployed
from tests.support.models import reference_models, with_texts

HOT_PATH = [
    "tests/wire", "tests/http2", "tests/faults", "tests/dataplane", "tests/transport", "tests/e2e/test_life.py",
    "tests/record/test_rewards.py", "tests/record/test_token.py", "tests/telemetry/test_attempts.py",
    "tests/telemetry/test_choice.py", "tests/telemetry/test_spans.py", "tests/engines/test_rows.py",
    "tests/engines/test_weight_rows.py", "tests/policies/test_bucketing.py", "tests/policies/test_ejection.py",
]  # fmt: skip
BESIDE = (
    "tests", "benchmarks", "docs", "deploy", "pyproject.toml", "config.example.yaml", "README.md", "Makefile",
)  # fmt: skip
"""What the tests need besides the packages; the bytecode of tests comes with them."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled wheel for this interpreter and machine."""
    if build.form() == "compiled":
        pytest.skip("the checkout itself runs compiled, so every test of this run is one of that form")
    if lacking := deployed("compiled").lacking():
        pytest.skip(f"nothing can be compiled here without {lacking}")
    place = tmp_path_factory.mktemp("compiled")
    for built in Path(os.environ.get("TURNOUT_WHEEL", place)).glob("*.whl"):  # by `make test`
        return Path(shutil.copy(built, place))
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(place)]
    # What mypyc translates is tested; the C compiler's best takes a minute more of computing.
    env = {**os.environ, "TURNOUT_COMPILE": "1", "TURNOUT_COMPILE_LEVEL": "1"}
    done = subprocess.run(words, cwd=build.ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def compiled(wheel: Path) -> Path:
    """A directory with what the wheel holds, and the tests beside it."""
    root = wheel.parent / "root"
    being_written = shutil.ignore_patterns("*.pyc.*")  # by the tests that run meanwhile
    with zipfile.ZipFile(wheel) as found:
        found.extractall(root)
    for name in BESIDE:
        source = build.ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=being_written)
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


def test_the_demo_runs_from_the_wheel_in_a_bare_environment(
    wheel: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Installed by pip without the checkout; only the libraries that it needs are those of this environment."""
    assert f"-cp3{sys.version_info.minor}-" in wheel.name, "the wheel is not tagged for this interpreter"
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    words = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*words, "--no-compile", str(wheel)], check=True, capture_output=True, timeout=120)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (empty := tmp_path / "empty").mkdir()
    config = example(site, empty)
    models = with_texts(tmp_path_factory, tmp_path / "models")
    shutil.copytree(reference_models(tmp_path_factory).folder.parent, models, dirs_exist_ok=True)
    words = [str(tmp_path / "venv/bin/turnout"), "demo", "--config", str(config), "--models", str(models)]
    done = subprocess.run(
        [*words, "--duration", "1", "--json"], cwd=empty, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert sum(v["requests"] for v in report["variants"].values()) > 0, done.stderr
    assert (report["failed"], report["rewards_lost"]) == (0, 0)
    assert f"turnout {build.version()} (compiled by mypyc " in done.stderr


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
    """Few examples of each property: the source is what the run around this one tries them all on."""
    workers = 1 + (os.cpu_count() or 1)  # beside those of the tests that run meanwhile
    forked = (
        f"{workers}*popen//python={shlex.join([sys.executable, '-m', 'tests.support.worker', *HOT_PATH])}"
    )
    parallel = ["--tx", forked, "--dist", "loadfile", "--no-loadscope-reorder"]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--few-examples"]
    done = subprocess.run(
        [*words, *parallel, *HOT_PATH], cwd=compiled, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-20_000:]
