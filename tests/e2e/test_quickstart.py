"""README's configuration and docs/quickstart.md, run as they stand there, on other ports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.children import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The directory of the reader, with server.py and turnout.yaml in it, and their ports for ours."""
    folder = tmp_path_factory.mktemp("quickstart")
    ports = dict(zip(("8080", "9001", "9002"), free_ports(3), strict=True))
    (server,) = blocks("docs/quickstart.md", "python")
    configuration, *_ = blocks("README.md", "yaml")
    (folder / "server.py").write_text(server)
    (folder / "turnout.yaml").write_text(translated(configuration, ports))
    return folder, ports


def translated(text: str, ports: dict[str, int]) -> str:
    return re.sub(r"\b(8080|9001|9002)\b", lambda found: str(ports[found[1]]), text)


def shell(place: tuple[Path, dict[str, int]], text: str) -> str:
    """Runs a block as a shell would; what goes to the background stays in the shell's process group."""
    folder, ports = place
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # A file for each: what runs in the background goes on writing to its own.
    out = folder / f"{len(list(folder.glob('*.out')))}.out"
    with out.open("w") as file:
        done = subprocess.run(
            [
                "bash",
                "-c",
                translated(text, ports).replace(
                    "turnout status", f"turnout status --url http://127.0.0.1:{ports['8080']}"
                ),
            ],
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, out.read_text()
    return out.read_text()


def wait(url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            httpx.get(url)
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError(f"nothing responds at {url}")


def test_the_canary_of_the_readme_rolls_back_by_itself(place: tuple[Path, dict[str, int]]) -> None:
    start, gateway, one, many, status, reward = blocks("docs/quickstart.md", "sh")
    _, ports = place
    background: list[int] = []
    try:
        shell(place, start.replace("pip install fastapi uvicorn\n", "") + "\njobs -p > servers.pids")
        for port in ("9001", "9002"):
            wait(f"http://127.0.0.1:{ports[port]}/docs")
        said = shell(place, gateway + "\njobs -p > gateway.pids")
        assert "valid, 1 route, 2 backends, 1 metric" in said
        background += [int(p) for f in place[0].glob("*.pids") for p in f.read_text().split()]
        wait(f"http://127.0.0.1:{ports['8080']}/-/readyz")
        first = shell(place, one)
        assert '{"sum":6}' in first
        assert re.search(r"x-variant: v[12]", first)
        assert re.fullmatch(r"\s*600 200\n", shell(place, many)), "a client noticed"
        time.sleep(2)
        seen = shell(place, status)
        assert "rolled_back" in seen
        assert "error_rate" in seen
        assert "v2 0.0%" in seen
        assert '"accepted":1' in shell(place, reward).replace(" ", "")
    finally:
        for pid in background:
            os.kill(pid, signal.SIGTERM)


def test_the_commands_of_the_readme_are_those_of_the_quickstart() -> None:
    (console,) = [block for block in blocks("README.md", "console") if "turnout run" in block]
    sent = re.findall(r"--json '(\{.*?\})'", console)
    assert sent[0] in (ROOT / "docs/quickstart.md").read_text()
    assert re.search(
        r"/-/feedback --json '\{\"decision_id\": \".*?\", \"metric\": \"correct\", \"value\": true\}'",
        console,
    )
