"""Scripts of `deploy/`, as modules."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from gateway import build


def deployed(name: str) -> Any:
    """`deploy/NAME.py`, loaded by itself."""
    spec = spec_from_file_location(f"deploy_{name}", build.ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
