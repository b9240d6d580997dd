"""The files that a document names. Apart from loading, because a document may be checked elsewhere."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.config.backend import BackendTlsConfig
from gateway.config.document import Document
from gateway.config.faults import KeyPath
from gateway.config.kubernetes import KubernetesConfig
from gateway.config.references import Finding
from gateway.config.service import TlsConfig

_CERTIFICATE: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]*CERTIFICATE|X509 CRL)-----[^-]*-----END \1-----")
_CLIENT_AUTH: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class _Named(NamedTuple):
    """Certificates and keys that a section names, and the key path of the section."""

    here: KeyPath
    ca_key: str
    ca: str | None
    cert: str | None
    key: str | None

    @property
    def files(self) -> dict[str, str]:
        """Those that are named, by key."""
        named = {self.ca_key: self.ca, "cert": self.cert, "key": self.key}
        return {key: file for key, file in named.items() if file is not None}


def missing_files(document: Document) -> Iterator[Finding]:
    """Named files that are not here; where the gateway runs they may be."""
    for named in _named(document):
        for key, file in named.files.items():
            yield from _missing((*named.here, key), file)
    jwt = document.auth.jwt if document.auth else None
    if jwt is not None and "://" not in jwt.jwks:
        yield from _missing(("auth", "jwt", "jwks"), jwt.jwks)


def unusable_files(document: Document) -> Iterator[Finding]:
    """Named files that are here, and are not what they should be."""
    for named in _named(document):
        if all(Path(file).is_file() for file in named.files.values()):
            yield from _certificates(named)


def _named(document: Document) -> Iterator[_Named]:
    if document.tls is not None:
        tls = document.tls
        yield _Named(("tls",), "client_ca", tls.client_ca, tls.cert, tls.key)
    traces = document.telemetry.traces
    sections = {("backends", name, "tls"): backend.tls for name, backend in document.backends.items()}
    sections |= {("telemetry", "traces", "tls"): traces.tls} if traces is not None else {}
    for here, own in sections.items():
        yield _Named(here, "ca", own.ca, own.cert, own.key)
    for name, engine in document.engines.items():
        if isinstance(engine, KubernetesConfig):
            yield _Named(("engines", name), "ca", engine.ca, None, None)


def _certificates(named: _Named) -> Iterator[Finding]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    here, ca_key, ca, cert, key = named
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
    return frozenset(file for named in _named(document) for file in named.files.values())
