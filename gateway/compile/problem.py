"""A refused configuration, and what readers may see of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.config.faults import ConfigError


@dataclass(frozen=True, slots=True)
class Problem:
    """A configuration that was refused while another stays in force."""

    time: float
    author: str
    etag: str
    """Of the refused text, or of the one in force if it can't be built again; "" for a file that can't be read."""
    error: ConfigError

    def shown(self) -> dict[str, Any]:
        """For everyone who may read: where the faults are, without their words."""
        first = self.error.faults[0]
        place = f"{self.error.source}:{first.line}:{first.column}" if first.line else self.error.source
        return {
            "time": self.time,
            "author": self.author,
            "place": place,
            "path": first.path,
            "faults": len(self.error.faults),
        }
