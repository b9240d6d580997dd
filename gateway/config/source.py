"""The configuration file of a process, with what the command line puts in its place."""

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
    """``overrides`` replace ``listen`` or ``store`` (the demo's).

    ``spare``: an earlier text of the file that was good, for a worker that takes the place of one that died: where
    the file has a fault by now, it goes on with what the others have in force.
    """

    path: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    spare: str = ""

    def first(self) -> tuple[str | None, Document]:
        """The file's text and what it says; None and what the spare one says where the file has a fault.

        Raises ConfigError.
        """
        try:
            text = read_text(self.path)
            return text, self._loaded(text)
        except ConfigError:
            if not self.spare:
                raise
            return None, self._loaded(self.spare)

    def _loaded(self, text: str) -> Document:
        return self.overridden(load(text, source=str(self.path), env=os.environ))

    def overridden(self, document: Document) -> Document:
        """``document`` with the options of the command line."""
        return document.model_copy(update=dict(self.overrides)) if self.overrides else document
