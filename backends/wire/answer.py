"""The answer to an inference request, as JSON with or without binary data behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from backends.errors import InvalidInput
from backends.wire.signature import TensorSpec
from backends.wire.tensors import to_bytes, to_json


class Answer(NamedTuple):
    """The bytes of an answer; `header_length` is the size of its JSON part when binary data follows."""

    body: bytes
    header_length: int | None


def render(
    model: str,
    version: str,
    request_id: str | None,
    outputs: Sequence[tuple[TensorSpec, bool]],
    arrays: Sequence[np.ndarray],
) -> Answer:
    """The answer with ``outputs`` out of ``arrays`` (all outputs of the model, in its order).

    Raises InvalidInput when an output can't be written as JSON and binary would do.
    """
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request_id is not None:
        document["id"] = request_id
    binary: list[bytes] = []
    document["outputs"] = [
        _tensor(spec, arrays[spec.index], as_binary, binary) for spec, as_binary in outputs
    ]
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in head:
        _refuse_infinity(document["outputs"])
    return Answer(b"".join((head, *binary)), len(head)) if binary else Answer(head, None)


def _refuse_infinity(tensors: list[dict[str, Any]]) -> None:
    """Raises InvalidInput if an infinity was written as null, which reaches the client as NaN."""
    for tensor in tensors:
        data = tensor.get("data")
        if isinstance(data, np.ndarray) and data.dtype.kind == "f" and np.isinf(data).any():
            raise InvalidInput(
                f"output {tensor['name']!r} is infinite, and JSON has no infinity; "
                "ask for it with binary_data: true"
            )


def _tensor(spec: TensorSpec, array: np.ndarray, as_binary: bool, binary: list[bytes]) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype.name, "shape": array.shape}
    if as_binary:
        binary.append(to_bytes(spec.datatype, array))
        tensor["parameters"] = {"binary_data_size": len(binary[-1])}
    else:
        tensor["data"] = to_json(spec.name, spec.datatype, array)
    return tensor
