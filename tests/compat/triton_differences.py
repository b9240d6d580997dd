"""Where the bundled model server differs from Triton on purpose, by the name of the call in the corpus."""

from __future__ import annotations

from typing import Final

CLIENT_ERROR: Final = (
    "Triton answers 500 to JSON that it cannot use; the server answers 400, because the client is at fault"
)
"""Not listed by call: it holds wherever Triton answers 500 and the server 400."""

_EXACT = "input that does not fit is refused, never changed: Triton wraps, clips or guesses"
_JSON = "JSON has neither NaN nor infinity: refused in requests; NaN is null in responses, infinity an error"
_ABSENT = "Triton has the extension; the server refuses it by name"
_PAGES = "Triton's body is empty; the server's says what is ready"
_STATUS = "404 for what does not exist, as for every other call; Triton answers 400"

DIFFERENCES: Final[dict[str, str]] = {
    "json UINT8 out of range": _EXACT,
    "json INT8 out of range": _EXACT,
    "json FP32 out of range": _EXACT,
    "bytes 2 for BOOL": _EXACT,
    "a tensor with data nested elsewise": _EXACT,
    "a tensor with parameters that are a list": _EXACT,
    "a document with a key of one's own": _EXACT,
    "an output twice": _EXACT,
    "a document with a byte order mark": "RFC 8259 forbids it",
    "a document with bytes that are no UTF-8": "RFC 8259 forbids them; Triton returns them in its own JSON",
    "a document with NaN": _JSON,
    "NaN as JSON": _JSON,
    "infinity as JSON": _JSON,
    "binary FP16, JSON response": "the server writes FP16 as JSON numbers; Triton has only the binary form",
    "classification": _ABSENT,
    "a sequence": "Triton ignores it for a model without sequence batching; the server says that it has none",
    "an output in shared memory": _ABSENT,
    "a tensor with shared memory": _ABSENT,
    "outputs in the other order": "outputs come in the order of the request; Triton keeps the model's",
    "GET /v2/health/live": _PAGES,
    "GET /v2/health/ready": _PAGES,
    "GET /v2/models/echo_FP32/ready": _PAGES,
    "GET /v2/models/echo_FP32/versions/1/ready": _PAGES,
    "GET /v2/models/echo_FP32/versions/2/ready": _STATUS,
    "GET /v2/models/absent/ready": _STATUS,
    "the index of the ready ones": "every row has a reason, empty for what is ready",
}
