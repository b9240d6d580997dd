"""What identifies an address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_PORTS: Final = {"http": 80, "h2c": 80, "https": 443, "h2": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place to connect to; the same endpoint keeps its state across configurations."""

    scheme: str
    host: str
    port: int
    tls: str = ""
    """A digest of the TLS settings; "" for none."""

    @property
    def authority(self) -> bytes:
        """The Host of requests to it, without the port if it is the scheme's default."""
        return (self._host if self.port == _PORTS.get(self.scheme) else f"{self._host}:{self.port}").encode()

    @property
    def http2(self) -> bool:
        """Whether it must speak HTTP/2: in plain text (h2c) or over TLS (h2)."""
        return self.scheme in ("h2c", "h2")

    @property
    def web_scheme(self) -> str:
        """The scheme of a request to it: "http" or "https"."""
        return "https" if _PORTS.get(self.scheme) == 443 else "http"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self._host}:{self.port}"
