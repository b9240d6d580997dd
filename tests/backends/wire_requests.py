"""Inference requests as bytes, for tests without a server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from backends.config import ModelConfig
from backends.errors import InvalidInput
from backends.wire.request import InferRequest, Plans, Slice
from backends.wire.signature import Signature


def signature(datatype: str = "FP32", dims: tuple[int, ...] = (3,), batch: int = 4) -> Signature:
    tensor = {"name": "x", "data_type": datatype, "dims": dims}
    config = ModelConfig.model_validate(
        {
            "name": "m",
            "platform": "pytorch_module",
            "max_batch_size": batch,
            "input": [tensor],
            "output": [{**tensor, "name": "y"}, {**tensor, "name": "z"}],
        }
    )
    return Signature.of(config)


def tensor(data: Any = (1, 2, 3), shape: Any = (1, 3), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, **more}


def parse(body: bytes, length: bytes | None, sign: Signature) -> InferRequest:
    """Without a memory of other requests."""
    return Plans(sign).parse(body, length)


def parsed(document: dict[str, Any], sign: Signature | None = None) -> InferRequest:
    return parse(json.dumps(document).encode(), None, sign or signature())


def refused(document: Any, sign: Signature | None = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse(json.dumps(document).encode(), None, sign or signature())
    return caught.value.message


def with_binary(size: int, shape: tuple[int, ...], datatype: str, raw: bytes) -> tuple[bytes, bytes]:
    """A body and its header length."""
    entry = tensor(shape=shape, datatype=datatype, parameters={"binary_data_size": size})
    del entry["data"]
    head = json.dumps({"inputs": [entry]}).encode()
    return head + raw, b"%d" % len(head)


def array(request: InferRequest, index: int = 0) -> np.ndarray:
    """An input of ``request`` as an array, wherever its data came from."""
    part = request.inputs[index]
    if isinstance(part, np.ndarray):
        return part
    source = request.plan.sources[index]
    assert isinstance(source, Slice)
    return np.frombuffer(part, source.spec.datatype.dtype).reshape(source.shape)
