"""Whether a shadow's response agrees with the primary's, compared as what it is and not as bytes.

v2 tensors by name (exact for integers, booleans and strings, within a tolerance for floats, by argmax for
scores; JSON and binary forms decoded alike), predictions of TF Serving and MLflow, the responses of OpenAI's and
Anthropic's APIs, Ollama, Seldon and TGI, else JSON as a whole, else text, else bytes. Streams are put together first,
so that the same text cut into other pieces agrees. `compare` never raises, whatever the bytes are, and takes time
in proportion to their bounded length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from policies.comparison import anthropic, grpc, json_tree, openai, servers, streams, tensors
from policies.comparison.bodies import (
    Beyond,
    Comparison,
    Empty,
    Json,
    Malformed,
    Response,
    parse_json,
    plain_body,
)
from policies.comparison.differences import Findings
from policies.comparison.streams import Documents


@dataclass(frozen=True, slots=True)
class Agreement:
    """``form``: as what the responses were compared. ``difference``: the largest distance of two numbers."""

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


def compare(primary: Response, shadow: Response, how: Comparison | None = None) -> Agreement:
    """Compares two responses; see the module.

    A primary that can't be read leaves nothing to agree with (``not_comparable``, unless both are the same
    bytes), nor does what is beyond us in either; a shadow that can't be read where the primary can differs.
    """
    how = how or Comparison()
    form = str(how.form)
    findings = Findings()
    try:
        body = plain_body(primary)
        form, documents = _recognise(primary, body, how)
        first = _guarded(form, primary, body, documents, how)
    except Malformed as fault:
        if primary == shadow and not isinstance(fault, Empty):
            return Agreement("agrees", "bytes")
        return Agreement("not_comparable", form, detail=str(fault))
    try:
        second = _guarded(form, shadow, plain_body(shadow), None, how)
    except Beyond as fault:
        return Agreement("not_comparable", form, detail=str(fault))
    except Malformed as fault:
        findings.differ("body", f"can be read as {form}", str(fault))
        return _agreement(form, findings)
    try:
        _COMPARE.get(form, _compare_documents)(first, second, how, findings)
    except Malformed as fault:
        return Agreement("not_comparable", form, detail=str(fault))
    return _agreement(form, findings)


def _agreement(form: str, findings: Findings) -> Agreement:
    verdict: Literal["agrees", "differs"] = "differs" if findings.count else "agrees"
    return Agreement(verdict, form, findings.difference, findings.detail())


# What the primary's response is -----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Format:
    """A format whose responses are JSON documents, whole or streamed."""

    recognises: Callable[[list[Json]], bool]
    put_together: Callable[[list[Json]], Json]
    """The whole response; declared paths lead into it. Raises Malformed."""
    content: Callable[[Json], Json]
    """What of it counts where no paths are declared. Raises Malformed."""


FORMATS: Final = {
    "openai": Format(openai.recognises, openai.put_together, openai.content),
    "anthropic": Format(anthropic.recognises, anthropic.put_together, anthropic.content),
    "ollama": Format(servers.is_ollama, servers.ollama_whole, servers.ollama_content),
    "seldon": Format(servers.is_seldon, servers.whole_document, servers.seldon_content),
    "generate": Format(servers.is_generate, servers.generate_whole, servers.generate_content),
    "predictions": Format(servers.is_predictions, servers.predictions_whole, servers.predictions_content),
}
"""In the order in which they are tried."""


def _recognise(response: Response, body: bytes, how: Comparison) -> tuple[str, Documents | None]:
    """The form, and the documents if the body was read to find out."""
    if how.form != "auto":
        return how.form, None
    if grpc.is_grpc(response):
        return ("v2" if grpc.recognises(body) else "bytes"), None
    if response.inference_header:
        return "v2", None
    documents = streams.read(response, body)
    if documents is None:
        return "bytes", None
    if all(map(tensors.is_v2, documents)):
        return "v2", documents
    for name, known in FORMATS.items():
        if known.recognises(documents):
            return name, documents
    if not documents.streamed:
        return "json", documents
    return ("stream" if documents.text is None else "text"), documents


# How each form is read --------------------------------------------------------------------------------
def _guarded(form: str, response: Response, body: bytes, documents: Documents | None, how: Comparison) -> Any:
    try:
        return _read(form, response, body, documents, how)
    except RecursionError as fault:
        raise Malformed("the JSON is nested too deeply") from fault


def _read(form: str, response: Response, body: bytes, documents: Documents | None, how: Comparison) -> Any:
    """What is compared. Raises Malformed."""
    if form == "bytes":
        return body
    if form == "v2" and grpc.is_grpc(response):
        return grpc.decode(body)
    if form == "v2" and response.inference_header:
        return tensors.decode(response, body)
    if documents is None:
        documents = streams.read(response, body)
    if documents is None:
        if form in ("stream", "text"):
            text = body.decode("utf-8", "surrogateescape")
            documents = Documents([text], text=text)
        else:
            documents = Documents([parse_json(body)], streamed=False)
    if form == "v2":
        return tensors.join([tensors.from_document(document) for document in documents])
    if form in FORMATS:
        return _chosen(FORMATS[form].put_together(documents), FORMATS[form].content, how)
    return _read_any(documents, how)


def _chosen(document: Json, content: Callable[[Json], Json], how: Comparison) -> Json:
    """What lies at the declared paths, by path; or the content; without what is to be ignored."""
    if not how.paths:
        document = content(document)
    for path in how.ignore:
        json_tree.remove(document, path)
    if how.paths:
        return {path: json_tree.pick(document, path) for path in how.paths}
    return document


def _read_any(documents: Documents, how: Comparison) -> Json:
    """JSON of any shape: the document, the parts of a stream, or what lies at the declared paths of each."""
    if not documents.streamed:
        return _chosen(documents[0], lambda document: document, how)
    for document in documents:
        for path in how.ignore:
            json_tree.remove(document, path)
    return {path: _pick_each(documents, path) for path in how.paths} if how.paths else documents


def _pick_each(documents: Documents, path: str) -> Json:
    """What lies at ``path`` in the parts of a stream; texts are put together."""
    found = [
        each for document in documents if (each := json_tree.pick(document, path)) is not json_tree.MISSING
    ]
    if found and all(isinstance(each, str) for each in found):
        return "".join(found)
    return found or json_tree.MISSING


# How each form is compared ----------------------------------------------------------------------------
def _compare_bytes(first: bytes, second: bytes, how: Comparison, findings: Findings) -> None:
    if first != second:
        findings.differ("body", first, second)


def _compare_documents(first: Json, second: Json, how: Comparison, findings: Findings) -> None:
    if how.paths:
        _compare_paths(first, second, how, findings)
    elif isinstance(first, Documents) and isinstance(second, Documents):
        _compare_streams(first, second, how, findings)
    else:
        json_tree.compare("", first, second, how, findings)


def _compare_paths(
    first: dict[str, Json], second: dict[str, Json], how: Comparison, findings: Findings
) -> None:
    """Raises Malformed when none of the paths is in either response."""
    there = [
        path
        for path in how.paths
        if first[path] is not json_tree.MISSING or second[path] is not json_tree.MISSING
    ]
    if not there:
        raise Malformed("none of the declared paths is in either response")
    for path in there:
        json_tree.compare(path, first[path], second[path], how, findings)


def _compare_streams(first: Documents, second: Documents, how: Comparison, findings: Findings) -> None:
    if first.text is not None and second.text is not None:
        if first.text == second.text:
            return
        if isinstance(first[0], str) or isinstance(second[0], str):
            findings.differ("text", first.text, second.text)
            return
    if first.names != second.names:
        findings.differ("events", ", ".join(first.names), ", ".join(second.names))
    json_tree.compare("", first, second, how, findings)


_COMPARE: Final[dict[str, Callable[[Any, Any, Comparison, Findings], None]]] = {
    "bytes": _compare_bytes,
    "v2": tensors.compare,
}
