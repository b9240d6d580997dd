"""Does a shadow's answer agree with the primary's? Compared as what it is, not as bytes.

v2 tensors by name (exact for integers, booleans and strings, within a tolerance for floats, by argmax for
scores; JSON and binary forms decoded alike), predictions of TF Serving and MLflow, OpenAI choices (content,
tool calls, finish reason; streams put together first), JSON at declared paths, else JSON as a whole, else
bytes. `compare` never raises, whatever the bytes are, and takes time in proportion to their bounded length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from policies import agreement_json, agreement_openai, agreement_tensors
from policies.agreement_findings import Findings
from policies.agreement_forms import (
    LARGEST,
    Answer,
    Comparison,
    Form,
    Json,
    Malformed,
    dictionary,
    parse_json,
    plain_body,
)

__all__ = ["LARGEST", "Agreement", "Answer", "Comparison", "Form", "compare"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """``form``: as what the answers were compared. ``difference``: the largest distance of two numbers."""

    verdict: Literal["agrees", "differs", "not_comparable"]
    form: str
    difference: float | None = None
    """None when no fractional numbers were compared."""
    detail: str = ""
    """"" | JSON of at most a kilobyte with the first differences | why nothing could be compared."""

    @property
    def agrees(self) -> bool | None:
        """True, False, or None where nothing could be compared."""
        return None if self.verdict == "not_comparable" else self.verdict == "agrees"


def compare(primary: Answer, shadow: Answer, how: Comparison | None = None) -> Agreement:
    """Compares two answers; see the module.

    A primary that can't be read leaves nothing to agree with (``not_comparable``, unless both are the same
    bytes); a shadow that can't be read where the primary can differs.
    """
    how = how or Comparison()
    form = str(how.form)
    try:
        body, other = plain_body(primary), plain_body(shadow)
        form, document = _recognise(primary, body, how)
        first = _READ[form](primary, body, document)
    except Malformed as fault:
        if primary == shadow:
            return Agreement("agrees", "bytes")
        return Agreement("not_comparable", form, detail=str(fault))
    findings = Findings()
    try:
        second = _READ[form](shadow, other, None)
    except Malformed as fault:
        findings.differ("body", f"can be read as {form}", str(fault))
        return _agreement(form, findings)
    try:
        _COMPARE[form](first, second, how, findings)
    except Malformed as fault:
        return Agreement("not_comparable", form, detail=str(fault))
    return _agreement(form, findings)


def _agreement(form: str, findings: Findings) -> Agreement:
    verdict: Literal["agrees", "differs"] = "differs" if findings.count else "agrees"
    return Agreement(verdict, form, findings.difference, findings.detail())


# What the primary's answer is ------------------------------------------------------------------------


def _recognise(answer: Answer, body: bytes, how: Comparison) -> tuple[str, Json]:
    """The form, and the parsed document where finding out took parsing it."""
    if how.form != "auto":
        return ("paths" if how.form == "json" and how.paths else how.form), None
    if answer.inference_header:
        return "v2", None
    if answer.media == "text/event-stream":
        parts = agreement_openai.documents(body)
        return ("openai" if any(map(agreement_openai.is_openai, parts)) else "stream"), None
    declared = answer.media.endswith("json")
    if not declared and body[:1] not in (b"{", b"["):
        return "bytes", None
    try:
        document = parse_json(body)
    except Malformed:
        if declared:
            raise
        return "bytes", None
    return _recognise_json(document, how), document


def _recognise_json(document: Json, how: Comparison) -> str:
    if agreement_tensors.is_v2(document):
        return "v2"
    if how.paths:
        return "paths"
    if agreement_openai.is_openai(document):
        return "openai"
    return "predictions" if _PREDICTIONS & dictionary(document).keys() else "json"


# How each form is read, and compared -----------------------------------------------------------------

_PREDICTIONS: Final = frozenset({"predictions", "outputs"})


def _read_json(answer: Answer, body: bytes, document: Json) -> Json:
    return parse_json(body) if document is None else document


def _read_predictions(answer: Answer, body: bytes, document: Json) -> Json:
    """The predictions alone: TF Serving's by row or by column, MLflow's, or a bare list."""
    document = _read_json(answer, body, document)
    found = {key: value for key, value in dictionary(document).items() if key in _PREDICTIONS}
    if isinstance(document, list):
        return {"predictions": document}
    if not found:
        raise Malformed("the answer has no 'predictions' and no 'outputs'")
    return found


def _read_openai(answer: Answer, body: bytes, document: Json) -> Any:
    streamed = answer.media == "text/event-stream" or body[:5] == b"data:"
    parts = agreement_openai.documents(body) if streamed else [_read_json(answer, body, document)]
    return agreement_openai.choices(parts)


def _compare_bytes(first: bytes, second: bytes, how: Comparison, findings: Findings) -> None:
    if first != second:
        findings.differ("body", first, second)


def _compare_json(first: Json, second: Json, how: Comparison, findings: Findings) -> None:
    agreement_json.compare("", first, second, how, findings)


_READ: Final[dict[str, Callable[[Answer, bytes, Json], Any]]] = {
    "v2": agreement_tensors.decode,
    "predictions": _read_predictions,
    "openai": _read_openai,
    "stream": lambda answer, body, document: agreement_openai.documents(body),
    "paths": _read_json,
    "json": _read_json,
    "bytes": lambda answer, body, document: body,
}
_COMPARE: Final[dict[str, Callable[[Any, Any, Comparison, Findings], None]]] = {
    "v2": agreement_tensors.compare,
    "predictions": _compare_json,
    "openai": agreement_openai.compare,
    "stream": _compare_json,
    "paths": agreement_json.compare_paths,
    "json": _compare_json,
    "bytes": _compare_bytes,
}
