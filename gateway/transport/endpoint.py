"""What identifies an address."""

from __future__ import annotations

from dataclasses import dataclass


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
        default = {"http": 80, "https": 443}.get(self.scheme)
        return (self._host if self.port == default else f"{self._host}:{self.port}").encode()

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self._host}:{self.port}"
