"""The files that a document names. Apart from loading, because a document may be checked elsewhere."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.config.backend import BackendTlsConfig
from gateway.config.document import Document
from gateway.config.faults import KeyPath
from gateway.config.references import Finding
from gateway.config.service import TlsConfig

_CERTIFICATE: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]*CERTIFICATE|X509 CRL)-----[^-]*-----END \1-----")
_CLIENT_AUTH: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def unusable_files(document: Document) -> Iterator[Finding]:
    """What is wrong with named file that isn't here, or isn't what it should be."""
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
) -> Iterator[Finding]:
    named = {ca_key: ca, "cert": cert, "key": key}
    missing = [
        found for name, file in named.items() if file is not None for found in _missing((*here, name), file)
    ]
    yield from missing
    if missing:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            yield Finding((*here, ca_key), f"'{ca}' holds no certificates in PEM form: {_reason(error)}")
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password="")
        except (OSError, ValueError) as error:
            message = f"'{cert}' and '{key}' are not a certificate and its key in PEM form: {_reason(error)}"
            yield Finding((*here, "cert"), message)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)


def _missing(path: KeyPath, file: str) -> Iterator[Finding]:
    if not Path(file).is_file():
        yield Finding(path, f"there is no file '{file}' here; the gateway needs it to start")


def certificates(file: str) -> str:
    """The certificates and revocation lists in ``file``, in PEM: others may have these, but not a key next to them.

    Raises:
        OSError: The file can't be read.
    """
    text = Path(file).read_text("latin-1")  # notes between them may be in any encoding
    return "".join(f"{found[0]}\n" for found in _CERTIFICATE.finditer(text))


def client_context(tls: BackendTlsConfig) -> ssl.SSLContext:
    """How we speak TLS to others. Raises OSError for files that can't be used."""
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def listener_context(tls: TlsConfig) -> ssl.SSLContext:
    """How clients speak TLS to us. Raises OSError for files that can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.load_cert_chain(tls.cert, tls.key, password="")
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
    context.verify_mode = _CLIENT_AUTH[tls.client_auth]
    return context


def named_files(document: Document) -> frozenset[str]:
    """The certificates and keys that ``document`` names."""
    traces = document.telemetry.traces
    sections = [backend.tls for backend in document.backends.values()]
    sections += [traces.tls] if traces is not None else []
    files = [file for tls in sections for file in (tls.ca, tls.cert, tls.key)]
    if document.tls is not None:
        files += [document.tls.client_ca, document.tls.cert, document.tls.key]
    return frozenset(file for file in files if file is not None)
