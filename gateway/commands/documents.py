"""The configuration file and the route that a command reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from gateway.config.document import Document
from gateway.config.units import split_address

USUAL: Final = Path("turnout.yaml")
"""The configuration file of a command that names none."""


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=USUAL,
        metavar="FILE",
        help=f"configuration file (default: {USUAL})",
    )


def control_url(document: Document, everywhere: str = "") -> str | None:
    """The control API's URL; with ``everywhere`` as its host if it listens at every address, otherwise None then."""
    host, port = split_address(document.control or document.listen)
    if host in ("0.0.0.0", "::"):
        host = everywhere
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if document.tls is not None else 'http'}://{shown}:{port}" if host else None


def chosen_route(document: Document, wanted: str | None) -> str:
    """``wanted``, or the only route. Raises ValueError if there is no such route, or no only one."""
    if wanted is None and len(document.routes) == 1:
        return next(iter(document.routes))
    known = ", ".join(document.routes) or "the configuration has none"
    if wanted is None:
        raise ValueError(f"which route? write --route with one of: {known}")
    if wanted not in document.routes:
        raise ValueError(f"there is no route {wanted!r}; known: {known}")
    return wanted
