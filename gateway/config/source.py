"""The configuration file of a process and the options of the command line that override it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.document import Document
from gateway.config.faults import ConfigError
from gateway.config.load import load, read_text


@dataclass(frozen=True)
class Source:
    """Where the configuration comes from."""

    path: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Values for ``listen`` and ``store`` that replace those of the file."""
    fallback_config: str = ""
    """An earlier, valid text of the file. A replacement worker starts with it if the file has a fault by then, so
    that it serves what the other workers have in force."""

    def first(self) -> tuple[str | None, Document]:
        """The text and document of the file; if it has a fault, None and the document of ``fallback_config``.

        Raises ConfigError if there is no valid document.
        """
        try:
            text = read_text(self.path)
            return text, self._loaded(text)
        except ConfigError:
            if not self.fallback_config:
                raise
            return None, self._loaded(self.fallback_config)

    def _loaded(self, text: str) -> Document:
        return self.overridden(load(text, source=str(self.path), env=os.environ))

    def overridden(self, document: Document) -> Document:
        """``document`` with the overrides."""
        return document.model_copy(update=dict(self.overrides)) if self.overrides else document
