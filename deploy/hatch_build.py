"""Wheels: pure Python, unless ``TURNOUT_COMPILE=1`` asks for the compiled form (see `deploy/compiled.py`)."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MAPPED: Final = {"config.example.yaml": "gateway/config.example.yaml", "gateway/client/turnout": "turnout"}
"""What stands elsewhere in a wheel: the demo's example as package data, the client library under its name."""


def wanted() -> bool:
    """Whether whoever builds asks for it."""
    return os.environ.get("TURNOUT_COMPILE", "0") not in ("", "0")


class CompiledBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the extension modules to a wheel, or (for an editable install) puts them beside the sources."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return ["mypy[mypyc]>=2.4"] if wanted() and self.target_name == "wheel" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel" and version != "editable":
            build_data["force_include"].update({str(Path(self.root, k)): v for k, v in MAPPED.items()})
        if not wanted() or self.target_name != "wheel":
            return
        sys.path.insert(0, str(Path(self.root, "deploy")))
        compiled = importlib.import_module("compiled")
        if version == "editable":
            compiled.remove()
            compiled.compile_into(Path(self.root))
            return
        self._scratch = TemporaryDirectory(prefix="turnout-wheel-")
        made = Path(self._scratch.name)
        found = compiled.compile_into(made)
        build_data["force_include"].update({str(made / path): path.as_posix() for path in found})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_scratch"):
            self._scratch.cleanup()
