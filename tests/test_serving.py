"""What a process does with its limits before it listens."""

from __future__ import annotations

import logging
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.children import free_port
from gateway.config.load import load
from gateway.runtime.process import raise_open_files
from gateway.serving import described
from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess


@pytest.fixture
def soft() -> Iterator[int]:
    """A soft limit on open files below the hard one, put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(before[0], 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, before[1]))
    yield lowered
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_on_open_files_is_raised_as_far_as_it_goes(soft: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_open_files(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert hard > soft


def test_a_limit_that_is_too_low_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    with caplog.at_level(logging.WARNING, "turnout"):
        raise_open_files(512)
        assert caplog.messages == []
        raise_open_files(513)
    (said,) = caplog.messages
    assert "at most 1024 files" in said
    assert "'limits.connections: 513'" in said


CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
backends: {a: {url: "http://127.0.0.1:9"}}
routes:
  predict:
    match: {path: /predict}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy: {type: canary, baseline: v1, candidate: v2, stages: [{weight: 1%, for: 1h}]}
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_life_is_told_in_the_log(workers: int, tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, CONFIG, "--workers", str(workers)) as gateway:
        wait_for(lambda: gateway.log.count("ready\n") == workers)
        gateway.stop()
        said = [line.split(": ", 1)[1] for line in gateway.log.splitlines() if " INFO turnout" in line]
        assert len([line for line in said if line.startswith("turnout ")]) == 1  # the version
        (serving,) = [line for line in said if line.startswith("serving ")]
        assert serving.startswith(
            f"serving {gateway.url} · 1 route (predict: canary v1 → v2) · store sqlite://"
        )
        assert f"dashboard {gateway.url}/-/dashboard/" in serving
        for word in ("ready", "draining, 0 in flight", "ended"):
            assert len([line for line in said if line.endswith(word)]) == workers, word


def test_what_the_log_says_of_the_store_holds_no_password() -> None:
    document = load("store: redis://user:secret@cache:6379/0\nroutes: {}\n", source="x", env={})
    assert "store redis://cache:6379/0" in described(document)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["listen", "control"])
def test_a_port_that_is_taken_is_named(option: str, tmp_path: Path) -> None:
    other = "" if option == "listen" else f"listen: 127.0.0.1:{free_port()}\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "c.yaml").write_text(f"{other}{option}: {place}\nroutes: {{}}\n")
        command = [sys.executable, "-m", "gateway.cli", "run", "--config", str(tmp_path / "c.yaml")]
        store = f"sqlite:///{tmp_path}/turnout.db"
        ended = subprocess.run([*command, "--store", store], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert (
        f"turnout: {place} is in use; stop the process that listens there, or change '{option}'"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr
