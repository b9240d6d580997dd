"""One variant as the hot path needs it, and the fixed response that may stand in for one."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.transport.balancer import Backend


@dataclass(frozen=True, slots=True, eq=False)
class VariantPlan:
    """One variant, compiled."""

    name: str
    index: int
    backend: Backend
    backend_name: str
    rewrite: bytes | None
    """Replaces the matched prefix of the path; None leaves the path."""
    model: str | None
    """Replaces "model" in a JSON body; None leaves the body."""
    host: bytes | None
    """The Host to send; None sends the client's own or the address's."""
    preserve_host: bool
    lines: bytes
    """Field lines added to each request."""
    drops: tuple[bytes, ...]
    """Names (with the colon, in lower case and with "-" for "_") that the lines replace: some servers fold both."""
    response_line: bytes
    """``x-variant: NAME\\r\\n``"""
    version: bytes | None = None
    """Replaces the model's version in the path; None leaves the path."""
    base_path: bytes = b""
    """Path of the backend's url, put before the request's."""


@dataclass(frozen=True, slots=True)
class FixedResponse:
    """The last resort of a fallback list: a response without a backend."""

    status: int
    body: bytes
    lines: bytes
