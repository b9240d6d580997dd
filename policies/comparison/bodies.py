"""What a response is, and the settings of a comparison; bodies decoded within bounds.

Bodies come from backends that may be broken or hostile. Whatever they hold, decoding takes time and memory in
proportion to a bounded length, and ends in a value or in `Malformed`.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
"""Bytes of a body, decompressed; larger ones are not compared."""

Form = Literal[
    "auto", "v2", "predictions", "openai", "anthropic", "ollama", "seldon", "generate", "json", "bytes"
]
Json = Any
"""A parsed JSON document: what it holds is for the comparison to find out."""

SCORES: Final = frozenset({"scores", "score", "probabilities", "probability", "probs", "logits", "softmax"})
"""Names by which outputs are taken for scores where the configuration names none."""


class Malformed(Exception):
    """A body is not what it says it is; the message says how."""


class Beyond(Malformed):
    """A body may be sound, but in a form or of a size that is not read here."""


class Empty(Malformed):
    """A stream without data: even two that are the same agree in nothing."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response as it came: body, and the three headers that say how to read it ("" where absent)."""

    body: bytes
    content_type: str = ""
    inference_header: str = ""
    """`inference-header-content-length`: the length of the JSON part of a v2 response with binary tensors."""
    content_encoding: str = ""

    @property
    def media(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def is_event_stream(self) -> bool:
        return self.media == "text/event-stream"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How responses are compared.

    ``paths``: only these (tensor names, or keys joined by dots, where ``*`` is every key); () is all.
    ``ignore``: everything but these, named in the same way.
    """

    form: Form = "auto"
    paths: tuple[str, ...] = ()
    argmax: tuple[str, ...] | None = None
    """Of these only the place of the largest number is compared; None: of those named like `SCORES`."""
    tolerance: float = 1e-4
    """Numbers a and b agree when |a - b| <= tolerance * max(1, |a|, |b|)."""
    ignore: tuple[str, ...] = ()

    def ranked(self, name: str) -> bool:
        """Whether only the place of the largest number counts in what is called ``name``."""
        if self.argmax is None:
            return name.rpartition(".")[2].lower() in SCORES
        return name in self.argmax or name.rpartition(".")[2] in self.argmax

    def wanted(self, name: str) -> bool:
        return (not self.paths or name in self.paths) and name not in self.ignore


def plain_body(response: Response) -> bytes:
    """The body without its content coding. Raises Beyond for another coding or what is too large, else Malformed."""
    body, coding = response.body, response.content_encoding.strip().lower()
    if coding in ("gzip", "x-gzip", "deflate"):
        return inflate(body, coding)
    if coding not in ("", "identity"):
        raise Beyond(f"the content coding {coding[:40]!r} is not understood")
    return _bounded(body)


def inflate(body: bytes, coding: str) -> bytes:
    """``body`` without gzip or zlib. Raises Malformed for what can't be undone, or is too large."""
    stream = zlib.decompressobj(wbits=47)
    try:
        plain = _bounded(stream.decompress(body, MAX_BODY_BYTES + 1))
    except zlib.error as fault:
        raise Malformed(f"the body is not valid {coding}") from fault
    if (
        stream.unused_data
    ):  # what is not read must not agree; reading many small streams takes time without bound
        raise Beyond(f"the body has more than one stream of {coding}")
    return plain


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise Beyond(f"the body is larger than {MAX_BODY_BYTES} bytes")
    return body


def parse_json(data: bytes | str) -> Json:
    """The JSON document in ``data``. Raises Malformed."""
    try:
        return json.loads(data)
    except RecursionError as fault:
        raise Malformed("the JSON is nested too deeply") from fault
    except ValueError as fault:
        raise Malformed("the body is not valid JSON") from fault


def dictionary(value: Json) -> dict[str, Json]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Json) -> list[Json]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []
