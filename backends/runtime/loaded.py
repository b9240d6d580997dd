"""A model that a loader made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be called."""

    call: Callable[[dict[str, Any]], Any]
    """Takes the inputs by name (torch tensors; numpy object arrays for BYTES), returns the outputs."""
    parameters: int = 0
    network: bool = False
    """Whether it is a PyTorch network, rather than any Python code."""
    instance: Any = None
    """The instance of the class `Model`."""
    module: str = ""
    """The name in `sys.modules` under which the model's code was imported."""

    def close(self) -> None:
        """Forgets the imported code; its globals live as long as `sys.modules` holds it."""
        if self.module:
            forget(self.module)


def forget(name: str) -> None:
    """Removes the module ``name`` and those below it from `sys.modules`."""
    for key in list(sys.modules):  # a copy: other threads import meanwhile
        if key == name or key.startswith(f"{name}."):
            sys.modules.pop(key, None)
