"""The store that a command reads, given a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.commands import output
from gateway.errors import MissingExtra
from gateway.state.base import StoreUnavailable

FAILURES: Final = (*output.FAILURES, StoreUnavailable, MissingExtra)
"""Exceptions that a command that reads a store reports."""
_SQLITE: Final = "sqlite:///"


def of_file(store: str, config: Path) -> str:
    """``store`` as the gateway that runs with ``config`` has it open.

    A relative SQLite file is one of the gateway's working directory, which is this command's, or else most often
    that of the configuration file.
    """
    file = Path(store.removeprefix(_SQLITE))
    next_to_config = config.parent / file
    if not store.startswith(_SQLITE) or file.exists() or not next_to_config.exists():
        return store
    return f"{_SQLITE}{next_to_config}"


def archive_of_file(archive: str, config: Path) -> str:
    """``archive`` as the gateway that runs with ``config`` has it open, as `of_file`."""
    next_to_config = config.parent / archive
    if "://" in archive or Path(archive).exists() or not next_to_config.exists():
        return archive
    return str(next_to_config)


def missing(store: str) -> bool:
    """Whether ``store`` is a SQLite file that does not exist yet."""
    return store.startswith(_SQLITE) and not Path(store.removeprefix(_SQLITE)).exists()


def shown(store: str) -> str:
    """The address ``store`` without credentials."""
    scheme, mark, rest = store.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
