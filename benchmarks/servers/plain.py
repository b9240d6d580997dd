"""The plain backend: nginx, answering from memory on two ports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import traffic
from benchmarks.children import Child, free_ports

_CONFIG = Path(__file__).with_suffix(".conf")


def start(directory: Path, cores: Sequence[int], priority: str = "0") -> tuple[Child, tuple[int, int]]:
    """The running backend and its two ports."""
    ports = free_ports(2)
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
        "backend", ["nginx", "-c", str(config)], cores=cores, log=directory / "backend.log", priority=priority
    )
    try:
        child.wait_listening(ports[1])
    except BaseException:
        child.stop()
        raise
    return child, (ports[0], ports[1])
