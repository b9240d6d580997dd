"""The sections and keys of the document, taken from the models."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from gateway.config.document import Document


def keys_at(location: tuple[str | int, ...]) -> list[str]:
    """Keys of the section at ``location``, a location of pydantic's with the tags of unions."""
    found: list[type[BaseModel]] = [Document]
    kinds: list[Any] = [Document]
    for part in location:
        kinds = [inner for kind in kinds for inner in _step(kind, part)]
        found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sorted({name for model in found for name in yaml_keys(model)})


def yaml_keys(model: type[BaseModel]) -> list[str]:
    """The keys of one section, in the order of the model."""
    return [info.alias or name for name, info in model.model_fields.items()]


def every_section() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section's key path (``backends.NAME.health``, ``auth.keys[]``; "" for the top) and model."""
    yield from _sections("", Document)


def _sections(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, info in model.model_fields.items():
        here = f"{path}.{info.alias or name}".lstrip(".")
        for kind in unfold(info.annotation):
            inner, tail = _content(kind)
            for alternative in unfold(inner):
                if isinstance(alternative, type) and issubclass(alternative, BaseModel):
                    yield from _sections(here + tail, alternative)


def _content(kind: Any) -> tuple[Any, str]:
    """The type of a container's items, and how a key path continues into it."""
    if get_origin(kind) is tuple:
        return get_args(kind)[0], "[]"
    return (get_args(kind)[1], ".NAME") if _is_mapping(kind) else (kind, "")


def _step(kind: Any, part: str | int) -> Iterator[Any]:
    """Types at key or index ``part`` of ``kind``; for the tag of a union, its alternatives."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            if part in (name, info.alias):
                yield from unfold(info.annotation)
        if _tagged(kind, part):
            yield kind
    elif get_origin(kind) is tuple and isinstance(part, int):
        yield from unfold(get_args(kind)[0])
    elif _is_mapping(kind):
        yield from unfold(get_args(kind)[1])


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _tagged(model: type[BaseModel], tag: str | int) -> bool:
    """Whether ``tag`` is the value of ``type`` that stands for ``model`` in a union."""
    info = model.model_fields.get("type")
    return info is not None and tag in get_args(info.annotation)


def unfold(kind: Any) -> Iterator[Any]:
    """Alternatives of ``kind``, without Annotated."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from unfold(get_args(kind)[0])
    elif origin in (Union, types.UnionType):
        for alternative in get_args(kind):
            yield from unfold(alternative)
    else:
        yield kind
