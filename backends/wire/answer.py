"""The answer to an inference request, as JSON with or without binary data behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import orjson

from backends.errors import InvalidInput
from backends.wire.signature import TensorSpec
from backends.wire.tensors import to_bytes, to_json


class Answer(NamedTuple):
    """The bytes of an answer; `header_length` is the size of its JSON part when binary data follows."""

    body: bytes
    header_length: int | None


def identity_of(name: str, version: str) -> bytes:
    """The beginning of the JSON of each answer of a version: an object without its last brace."""
    return orjson.dumps({"model_name": name, "model_version": version})[:-1]


class Template:
    """The JSON of an answer around the data of its outputs, for one set of shapes."""

    __slots__ = ("_binary_head", "_end", "_indices", "_outputs", "_pieces", "_shapes")

    def __init__(
        self,
        identity: bytes,
        request_id: str | None,
        outputs: Sequence[tuple[TensorSpec, bool]],
        arrays: Sequence[np.ndarray],
    ) -> None:
        """``identity`` is that of the version, see `identity_of`.

        Of ``arrays`` (all outputs of the model, in its order) only the shapes matter.
        """
        self._outputs = outputs
        self._indices = [spec.index for spec, _ in outputs]
        self._shapes = self._shapes_of(arrays)
        self._pieces: list[bytes] = []
        text = identity
        if request_id is not None:
            text += b',"id":' + orjson.dumps(request_id)
        text += b',"outputs":['
        for (spec, as_binary), shape in zip(outputs, self._shapes, strict=True):
            document = {"name": spec.name, "datatype": spec.datatype.name, "shape": shape}
            text += orjson.dumps(document)[:-1]
            text += b',"parameters":{"binary_data_size":' if as_binary else b',"data":'
            self._pieces.append(text)
            text = b"}}," if as_binary else b"},"
        self._end = text[:-1] + b"]}"
        self._binary_head = b""
        """All of the JSON, if every output is numbers in binary form."""
        if all(as_binary and spec.datatype.kind != "bytes" for spec, as_binary in outputs):
            answer = self.fill(arrays)
            self._binary_head = answer.body[: answer.header_length]

    def fits(self, arrays: Sequence[np.ndarray]) -> bool:
        """Whether the outputs to send have the shapes of this template."""
        return self._shapes_of(arrays) == self._shapes

    def fill(self, arrays: Sequence[np.ndarray]) -> Answer:
        """The answer with the values of ``arrays``.

        Raises InvalidInput when an output can't be written as JSON and binary would do.
        """
        if self._binary_head:
            raw = [arrays[index].tobytes() for index in self._indices]
            return Answer(b"".join([self._binary_head, *raw]), len(self._binary_head))
        parts: list[bytes] = []
        binary: list[bytes] = []
        for piece, (spec, as_binary) in zip(self._pieces, self._outputs, strict=True):
            array = arrays[spec.index]
            if as_binary:
                data = to_bytes(spec.datatype, array)
                binary.append(data)
                parts += (piece, b"%d" % len(data))
            else:
                parts += (piece, _json(spec, array))
        parts.append(self._end)
        head = b"".join(parts)
        return Answer(b"".join((head, *binary)), len(head)) if binary else Answer(head, None)

    def _shapes_of(self, arrays: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
        return [arrays[index].shape for index in self._indices]


def _json(spec: TensorSpec, array: np.ndarray) -> bytes:
    """Flat values. Raises InvalidInput if an infinity is written as null, which clients read as NaN."""
    values = to_json(spec.name, spec.datatype, array)
    data = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in data and isinstance(values, np.ndarray) and np.isinf(values).any():
        raise InvalidInput(
            f"output {spec.name!r} is infinite, and JSON has no infinity; ask for it with binary_data: true"
        )
    return data
