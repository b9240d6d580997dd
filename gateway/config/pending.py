"""Options that this release reads and checks but does not act on yet.

A warning names each of them, because an option must not be ignored silently. A row is removed when
the option takes effect; docs/configuration.md has the same list, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import BaseModel

from gateway.config.document import Document
from gateway.config.faults import KeyPath, render_path
from gateway.config.references import Finding

PENDING: Final[frozenset[str]] = frozenset()


def pending_options(document: Document) -> Iterator[Finding]:
    """A warning for each such option whose value differs from its default."""
    yield from _within(document, (), "")


def _within(part: BaseModel, here: KeyPath, pattern: str) -> Iterator[Finding]:
    for name in sorted(part.model_fields_set, key=list(type(part).model_fields).index):
        info = type(part).model_fields[name]
        value = getattr(part, name)
        key = info.alias or name
        path, shape = (*here, key), f"{pattern}.{key}".lstrip(".")
        if shape in PENDING:
            if value != info.get_default(call_default_factory=True):
                message = f"this release does not act on '{render_path((key,))}' yet"
                yield Finding(path, message, "see the end of docs/configuration.md", of_key=True)
            continue
        for tail, step, inner in _parts(value):
            yield from _within(inner, (*path, *tail), shape + step)


def _parts(value: object) -> Iterator[tuple[KeyPath, str, BaseModel]]:
    """The sections in ``value``: how to get there, and how that is written in general."""
    if isinstance(value, BaseModel):
        yield (), "", value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, BaseModel):
                yield (name,), ".NAME", inner
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            if isinstance(inner, BaseModel):
                yield (index,), "[]", inner
