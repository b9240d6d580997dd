"""``turnout demo`` as pip installs it: from a wheel, in an empty directory."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from benchmarks.children import free_ports
from gateway import build
from tests.e2e.common import wait_for
from tests.support.models import with_texts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WITHOUT = "import sys; sys.modules['{package}'] = None; from gateway.cli import main; sys.exit(main({words}))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the pure wheel holds, and nothing of the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(place)]
    subprocess.run(words, cwd=build.ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as found:
        found.extractall(place / "installed")
    return place / "installed"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first demo trains what is missing: `digits`."""
    return with_texts(tmp_path_factory, tmp_path_factory.mktemp("models"))


def environment(installed: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(installed)}


def example(installed: Path, folder: Path) -> Path:
    """The packaged example on free ports."""
    text = (installed / "gateway/config.example.yaml").read_text()
    gateway, backend = free_ports(2)
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{gateway}").replace(":9101", f":{backend}")
    path = folder / "turnout.yaml"
    path.write_text(text)
    return path


def demo(installed: Path, folder: Path, models: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "gateway.cli", "demo", "--config", str(example(installed, folder))]
    return subprocess.Popen(
        [*words, "--models", str(models), *options],
        cwd=folder,
        env=environment(installed),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_wheel_declares_its_types(installed: Path) -> None:
    for package in ("gateway", "policies", "backends", "dashboards", "turnout"):
        assert (installed / package / "py.typed").is_file(), package


def test_the_demo_runs_from_the_wheel(installed: Path, models: Path, tmp_path: Path) -> None:
    out, err = demo(installed, tmp_path, models, "--duration", "1", "--json").communicate(timeout=200)
    report = json.loads(out)
    assert sum(v["requests"] for v in report["variants"].values()) > 0, err
    assert (report["failed"], report["rewards_lost"]) == (0, 0)
    assert "training the reference models" in err


def test_ctrl_c_ends_it_quietly_with_the_summary(installed: Path, models: Path, tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group, the servers included if they are in it."""
    process = demo(installed, tmp_path, models, "--rate", "0.01")  # the next request would be due in minutes
    assert process.stderr is not None
    (line,) = itertools.islice((one for one in process.stderr if one.startswith("dashboard:")), 1)
    url = line.split()[1].replace("dashboard/", "routes/digits")
    wait_for(lambda: any(one["assigned"] for one in httpx.get(url).json()["variants"].values()))
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "P(best)" in out
    assert "0 requests failed, 0 rewards lost." in out


def test_a_signal_while_the_servers_start_ends_them_too(
    installed: Path, models: Path, tmp_path: Path
) -> None:
    process = demo(installed, tmp_path, models)
    assert process.stderr is not None
    next(line for line in process.stderr if "listening on" in line)  # of the model server
    process.terminate()
    # Until all have closed standard error, the model server too; on a slow machine the demo has begun.
    _, err = process.communicate(timeout=120)
    assert process.returncode in (0, 130)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("torch", ["demo"]),
        ("torch", ["backend", "--models", ".", "--train"]),
        ("orjson", ["backend", "--models", "."]),
        ("orjson", ["backend", "--help"]),
    ],
)
def test_a_missing_extra_is_one_line(installed: Path, tmp_path: Path, package: str, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(package=package, words=words)],
        cwd=tmp_path,
        env=environment(installed),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"turnout: 'turnout {words[0]}' needs {package}, which is in the extra 'backend'; "
        "install it with: pip install 'turnout[backend]'"
    )
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_is_reported_before_anything_is_trained(
    installed: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "gateway.cli", "demo", "--config", "none.yaml", "--models", "models"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(installed), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("none.yaml: there is no such file")
    assert not (tmp_path / "models").exists()
