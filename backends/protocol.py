"""uvicorn's HTTP protocol, without the hole that it has for requests that ask for an upgrade.

httptools skips the body of such a request, and what follows it would be read as the next request:
behind a proxy that shares connections, a client could so speak in another's name. There is nothing
to upgrade to here, so these are refused and the connection ends.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    """Refuses CONNECT and Upgrade before the application sees them."""

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            raise ValueError(
                "nothing to upgrade to"
            )  # ends in data_received as an invalid request: 400, close
        super().on_headers_complete()
