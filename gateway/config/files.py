"""The files that a document names. Apart from loading, because a document may be checked elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.config.document import Document
from gateway.config.faults import Fault, KeyPath, render_path


def named_files(document: Document) -> Iterator[tuple[KeyPath, str]]:
    """Every file that must be readable for the document to be put into force, with its key path."""
    if document.tls is not None:
        tls = document.tls
        yield from _present(("tls",), {"cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca})
    for name, backend in document.backends.items():
        own = backend.tls
        yield from _present(("backends", name, "tls"), {"ca": own.ca, "cert": own.cert, "key": own.key})
    jwt = document.auth.jwt if document.auth else None
    if jwt is not None and "://" not in jwt.jwks:
        yield ("auth", "jwt", "jwks"), jwt.jwks


def _present(here: KeyPath, files: dict[str, str | None]) -> Iterator[tuple[KeyPath, str]]:
    for key, file in files.items():
        if file is not None:
            yield (*here, key), file


def missing_files(document: Document) -> Iterator[Fault]:
    """A warning for each named file that isn't on this machine."""
    for path, file in named_files(document):
        if not Path(file).is_file():
            yield Fault(
                0, 0, render_path(path), f"there is no file '{file}' here; the gateway needs it to start"
            )
