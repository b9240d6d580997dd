"""Dependencies: floors above known holes, hashed locks that cover them, and the private parts that we rely on."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import uvicorn
from packaging.requirements import Requirement
from packaging.version import Version
from prometheus_client import CollectorRegistry, Histogram

ROOT = Path(__file__).parent.parent
SAFE = {
    "cryptography": ("44.0.1", "CVE-2024-12797: OpenSSL in its wheels"),
    "protobuf": ("5.29.5", "CVE-2025-4565: unbounded recursion"),
    "pydantic": (
        "2.10.3",
        "a default factory that takes data fails, and with it engines of the type kubernetes",
    ),
    "pyjwt": ("2.12", "CVE-2024-53861: prefixes of the issuer accepted; CVE-2026-32597: 'crit' ignored"),
    "redis": ("6.0", "rediss:// checked no host name before"),
    "orjson": ("3.11.6", "CVE-2025-67221: unbounded recursion"),
    "starlette": ("1.0.1", "CVE-2025-62727, CVE-2026-48710: form and range parsing"),
    "torch": ("2.6", "CVE-2025-32434: torch.load with weights_only runs code"),
}
"""Distribution → the first version without the hole, and the hole."""

spec = importlib.util.spec_from_file_location("lock", ROOT / "deploy/lock.py")
assert spec is not None
assert spec.loader is not None
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def pinned(name: str) -> dict[str, list[tuple[Version, str]]]:
    """Distribution → its pinned versions (one per environment marker) with the text that holds their hashes."""
    found: dict[str, list[tuple[Version, str]]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / f"deploy/{name}.lock").read_text()):
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", entry)
        if pin:
            found.setdefault(pin[1].lower(), []).append((Version(pin[2]), entry))
    return found


@pytest.mark.parametrize("name", SAFE)
def test_no_floor_admits_a_known_hole(name: str) -> None:
    first, hole = SAFE[name]
    for requirement in declared():
        if requirement.name == name:
            floors = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
            assert max(floors) >= Version(first), f"{requirement} admits {hole}"


@pytest.mark.parametrize("name", lock.LOCKS)
def test_a_lock_covers_what_is_declared(name: str) -> None:
    pins = pinned(name)
    for line in lock.requirements(name):
        requirement = Requirement(line)
        versions = pins.get(requirement.name.lower(), [])
        assert versions, f"{line} is not in deploy/{name}.lock: run 'python deploy/lock.py'"
        assert all(requirement.specifier.contains(v) for v, _ in versions), line


@pytest.mark.parametrize("name", lock.LOCKS)
def test_every_locked_version_has_a_hash(name: str) -> None:
    for distribution, versions in pinned(name).items():
        assert all("--hash=sha256:" in entry for _, entry in versions), distribution


def test_the_parts_of_uvicorn_that_we_override_are_there() -> None:
    """`gateway.serving.Server` replaces these; another uvicorn may call them otherwise."""
    server = uvicorn.Server(uvicorn.Config("none:none", lifespan="on"))
    for method in ("capture_signals", "handle_exit", "startup", "shutdown", "run"):
        assert callable(getattr(server, method)), method
    assert isinstance(server.server_state.connections, set)
    assert server.should_exit is False
    assert server.force_exit is False
    assert server.started is False


def test_the_parts_of_prometheus_client_that_we_write_to_are_there() -> None:
    """`gateway.telemetry.metrics` adds whole batches to a histogram's cells."""
    registry = CollectorRegistry()
    made = Histogram("seconds", "", buckets=(1.0, 2.0), registry=registry)
    made._buckets[1].inc(3)
    made._sum.inc(4.5)
    samples = {(s.name, s.labels.get("le")): s.value for m in registry.collect() for s in m.samples}
    assert samples["seconds_bucket", "1.0"] == 0
    assert samples["seconds_bucket", "2.0"] == 3
    assert samples["seconds_sum", None] == 4.5
