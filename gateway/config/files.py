"""The files that a document names. Apart from loading, because a document may be checked elsewhere."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from gateway.config.document import Document
from gateway.config.faults import Fault, KeyPath, render_path


def unusable_files(document: Document) -> Iterator[Fault]:
    """A fault for each named file that isn't here, or isn't what it should be."""
    if document.tls is not None:
        tls = document.tls
        yield from _certificates(("tls",), "client_ca", tls.client_ca, tls.cert, tls.key)
    for name, backend in document.backends.items():
        own = backend.tls
        yield from _certificates(("backends", name, "tls"), "ca", own.ca, own.cert, own.key)
    traces = document.telemetry.traces
    if traces is not None:
        yield from _certificates(
            ("telemetry", "traces", "tls"), "ca", traces.tls.ca, traces.tls.cert, traces.tls.key
        )
    jwt = document.auth.jwt if document.auth else None
    if jwt is not None and "://" not in jwt.jwks:
        yield from _missing(("auth", "jwt", "jwks"), jwt.jwks)


def _certificates(
    here: KeyPath, ca_key: str, ca: str | None, cert: str | None, key: str | None
) -> Iterator[Fault]:
    named = {ca_key: ca, "cert": cert, "key": key}
    missing = [
        fault for name, file in named.items() if file is not None for fault in _missing((*here, name), file)
    ]
    yield from missing
    if missing:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            yield _fault((*here, ca_key), f"'{ca}' holds no certificates in PEM form: {_reason(error)}")
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password="")
        except (OSError, ValueError) as error:
            message = f"'{cert}' and '{key}' are no certificate and its key in PEM form: {_reason(error)}"
            yield _fault((*here, "cert"), message)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)


def _missing(path: KeyPath, file: str) -> Iterator[Fault]:
    if not Path(file).is_file():
        yield _fault(path, f"there is no file '{file}' here; the gateway needs it to start")


def _fault(path: KeyPath, message: str) -> Fault:
    return Fault(0, 0, render_path(path), message)
