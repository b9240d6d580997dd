"""What the first message of a gRPC call says of its model.

In the messages of the Open Inference Protocol that name a model, the name is field 1: ``model_name`` of
ModelInferRequest, ``name`` of ModelReadyRequest, ModelMetadataRequest and ModelConfigRequest.
Nothing here raises for anything that a client wrote.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from gateway.dataplane.request.body import Body
from gateway.dataplane.request.json_body import MODEL, NO_BODY, JsonBody
from policies.comparison.bodies import Malformed
from policies.comparison.protobuf import BYTES, PREFIX_BYTES, fields, messages

MODEL_FIELD: Final = 1
MAX_FIELDS: Final = 1024
"""Fields that are looked at; tensors are few fields, however large they are."""
MAX_LOOP_BYTES: Final = 1024
"""A compressed message of at most this many bytes is read on the event loop: it holds a megabyte at most."""


def first_message_is_here(body: Body) -> bool:
    """Whether a stream of requests has come far enough to decide on it."""
    if body.size < PREFIX_BYTES:
        return False
    prefix = b"".join(body.chunks[:PREFIX_BYTES])[:PREFIX_BYTES]
    return body.size >= PREFIX_BYTES + int.from_bytes(prefix[1:], "big")


def quick_to_read(data: bytes) -> bool:
    """Whether the first message in ``data`` may be read on the event loop."""
    return len(data) <= MAX_LOOP_BYTES or not data[0]


def read(data: bytes) -> JsonBody:
    """The model that the first message in ``data`` names, as if it were JSON; `NO_BODY` if none."""
    try:
        size = PREFIX_BYTES + int.from_bytes(data[1:PREFIX_BYTES], "big")
        message = next(messages(data[:size]), b"")
        names = [
            value
            for number, kind, value in islice(fields(message), MAX_FIELDS)
            if number == MODEL_FIELD and kind == BYTES and isinstance(value, bytes)
        ]
    except Malformed:
        return NO_BODY
    if not names:
        return NO_BODY
    return JsonBody({MODEL: names[-1].decode("utf-8", "replace")}, 0, models=len(names))
