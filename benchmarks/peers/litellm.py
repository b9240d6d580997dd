"""LiteLLM's proxy, from a virtual environment of its own: its pins and ours do not agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.machine import first_line
from benchmarks.peers import Peer, Place, render

HOME = Path(".bench/litellm")
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks the network for prices when it starts
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true",
    "NO_PROXY": "127.0.0.1",
}


def install() -> None:
    """Makes the environment where it is missing; about a minute, from the package registry."""
    if not (HOME / "bin" / "litellm").exists():
        HOME.parent.mkdir(exist_ok=True)
        (HOME.parent / ".gitignore").write_text("*\n")
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        subprocess.run([str(HOME / "bin" / "pip"), "install", "-q", "litellm[proxy]"], check=True)


def _command(place: Place, port: int) -> tuple[list[str], dict[str, str]]:
    words = [str(HOME.absolute() / "bin" / "litellm"), "--config", render("litellm.yaml", place, port, {})]
    words += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", str(place.workers)]
    return [*words, "--telemetry", "False"], _QUIET


def _version() -> str:
    code = "from importlib.metadata import version; print(version('litellm'))"
    python = HOME / "bin" / "python"
    return first_line(str(python), "-c", code) if python.exists() else ""


LITELLM = Peer("litellm", "LiteLLM proxy", _command, _version)
