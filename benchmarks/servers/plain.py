"""The plain backend: nginx, answering from memory on two ports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import traffic
from benchmarks.children import Child, free_ports

_CONFIG = Path(__file__).with_suffix(".conf")
SOURCES = {"1m": 2**20, "16m": 2**24}
"""Files under /v2/models/digits/source/ and their sizes in bytes."""


def start(directory: Path, cores: Sequence[int], nice: int = 0) -> tuple[Child, tuple[int, int]]:
    """The running backend and its two ports."""
    ports = free_ports(2)
    _write_sources(directory / "source")
    text = _CONFIG.read_text()
    for name, value in {
        "DIR": str(directory),
        "PORT_A": str(ports[0]),
        "PORT_B": str(ports[1]),
        "INFER_ANSWER": traffic.INFER_ANSWER,
        "CHAT_ANSWER": traffic.CHAT_ANSWER,
    }.items():
        text = text.replace(f"@{name}@", value)
    config = directory / "backend.conf"
    config.write_text(text)
    child = Child(
        "backend", ["nginx", "-c", str(config)], cores=cores, log=directory / "backend.log", nice=nice
    )
    try:
        child.wait_listening(ports[1])
    except BaseException:
        child.stop()
        raise
    return child, (ports[0], ports[1])


def _write_sources(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name, size in SOURCES.items():
        (directory / name).write_bytes(bytes(range(256)) * (size // 256))
