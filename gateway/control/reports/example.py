"""A shell command that sends a request which a route matches, for a route that has had none yet."""

from __future__ import annotations

import json
from shlex import quote
from typing import Final

from gateway.config.document import Document

ADDRESS: Final = "ADDRESS"
"""Stands for the address at which the reader reaches the gateway: a gateway does not know its names."""
NODE: Final = "NODE"
"""Stands for the address of a node of the route's engine."""


def example(document: Document, name: str) -> str:
    """Return the command, with `ADDRESS` (followed by a port if clients have another than the control API).

    Of a route that an engine serves: with `NODE`, or "" if only the engine knows which requests it matches.
    """
    route, match = document.routes[name], document.routes[name].match
    key = [] if document.auth is None else ['-H "x-api-key: $KEY"']
    address = ADDRESS if document.control is None else f"{ADDRESS}:{document.listen.rpartition(':')[2]}"
    plaintext = ["-plaintext"] if document.tls is None else []
    if route.engine is not None:
        key, address, plaintext = [], NODE, ["-plaintext"]
    if not match.path:  # nothing is proxied
        words = [f"curl {ADDRESS}/-/decide", *key, "--json", quote(json.dumps({"route": name}))]
        return " ".join(words) if route.engine is None else ""
    host = match.host[0].replace("*", "www") if match.host else ""
    fields = [f"-H {quote(f'{field}: {value}')}" for field, value in match.headers.items()]
    if match.grpc is not None:
        fields += [f"-authority {quote(host)}"] if host else []
        fields += [f"-d {quote(json.dumps({'model_name': match.model[0]}))}"] if match.model else []
        method = match.grpc if "/" in match.grpc else f"{match.grpc}/METHOD"
        return " ".join(["grpcurl", *plaintext, *key, *fields, address, method])
    fields = [*([f"-H {quote(f'host: {host}')}"] if host else []), *fields]
    body = {"model": match.model[0]} if match.model else {}
    if match.methods and "POST" not in match.methods:
        fields.append(f"-X {match.methods[0]}")
    else:
        fields.append(f"--json {quote(json.dumps(body))}")
    return " ".join(["curl", quote(address + match.path), *key, *fields])
