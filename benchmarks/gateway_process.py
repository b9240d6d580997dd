"""A gateway as a process of its own, on the cores of what is measured, and the part of a core that it uses."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.children import Child
from benchmarks.usage import usage


@contextmanager
def running(port: int, document: Mapping[str, object], cores: Sequence[int]) -> Iterator[Child]:
    """Runs ``document``, with its store in a folder that goes with the process; it listens at 127.0.0.1:``port``."""
    with tempfile.TemporaryDirectory() as folder:
        path, given = Path(folder, "turnout.yaml"), {"listen": f"127.0.0.1:{port}"}
        path.write_text(json.dumps({**given, "store": f"sqlite:///{folder}/turnout.db", **document}))
        command = [sys.executable, "-m", "gateway.cli", "run", "--config", str(path)]
        with Child("turnout", command, cores=cores, log=Path(folder, "log")) as child:
            child.wait_listening(port, 60.0)
            yield child


async def share(child: Child, seconds: float) -> float:
    """The part of a core that the process uses in the next ``seconds``."""
    before, began = usage(child.session).cpu_us, perf_counter()
    await asyncio.sleep(seconds)
    return (usage(child.session).cpu_us - before) / 1e6 / (perf_counter() - began)
