"""gzip and deflate, both ways, with a limit on what a small body may unfold to."""

from __future__ import annotations

import gzip
import zlib
from typing import Final

from backends.errors import InvalidInput, TooLarge, UnsupportedEncoding

MIN_SIZE: Final = 1024
"""Answers below this are sent as they are: compressing them costs more than it saves."""

_EITHER: Final = 47
"""zlib: 15 bits of window, +32 to recognise a zlib or a gzip header."""
_RAW: Final = -15


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """``body`` without its content encoding.

    Raises InvalidInput when it is damaged, TooLarge when more than ``limit`` bytes come out, and
    UnsupportedEncoding.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedEncoding(
            f"content-encoding {encoding!r} is not served here; send gzip, deflate or none"
        )
    try:
        return _inflate(body, _EITHER, limit)
    except zlib.error:
        pass
    # RFC 9110 means zlib's format by "deflate", but some clients send the bare stream.
    try:
        if name == "deflate":
            return _inflate(body, _RAW, limit)
    except zlib.error:
        pass
    raise InvalidInput(f"the body is not whole, valid {name}; send it again, or uncompressed")


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window)
    plain = stream.decompress(body, limit + 1)
    if len(plain) > limit:
        raise TooLarge(f"the body unfolds to more than {limit} bytes; send less at a time")
    # One stream only: a body of a million tiny gzip members would cost far more than it weighs.
    if not stream.eof or stream.unused_data:
        raise zlib.error("not one whole stream")
    return plain


def pack(body: bytes, accept: str) -> tuple[bytes, str]:
    """``body`` in the encoding that ``accept`` (an Accept-Encoding value) prefers, and its name or ""."""
    encoding = choose(accept) if len(body) >= MIN_SIZE else ""
    if encoding == "gzip":
        return gzip.compress(body, compresslevel=1, mtime=0), encoding
    if encoding == "deflate":
        return zlib.compress(body, level=1), encoding
    return body, ""


def choose(accept: str) -> str:
    """gzip, deflate or "" (none), whichever ``accept`` weighs most; gzip in a tie."""
    weights = dict(_weighed(item) for item in accept.split(","))
    anything = weights.get("*", 0.0)
    best, name = max(
        (weights.get(name, anything), -rank, name) for rank, name in enumerate(("gzip", "deflate"))
    )[::2]
    return name if best > 0 else ""


def _weighed(item: str) -> tuple[str, float]:
    name, _, parameters = item.partition(";")
    quality = parameters.replace(" ", "").lower().removeprefix("q=")
    try:
        return name.strip().lower(), float(quality) if parameters else 1.0
    except ValueError:
        return name.strip().lower(), 0.0
