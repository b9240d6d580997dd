"""Responses of model servers outside the larger protocols: Ollama, Seldon, TGI and Triton's generate, predictions.

Each format has the same three functions as `policies.comparison.openai`.
"""

from __future__ import annotations

from typing import Final

from policies.comparison.bodies import Json, Malformed, dictionary, sequence
from policies.comparison.openai import raise_error
from policies.comparison.pieces import REPLACED, Assembly, without


def _one(documents: list[Json]) -> Json:
    if len(documents) != 1:
        raise Malformed(f"the response is a stream of {len(documents)} documents, and not one")
    return documents[0]


def whole_document(documents: list[Json]) -> dict[str, Json]:
    """The one object of a response that is not streamed. Raises Malformed."""
    document = _one(documents)
    if not isinstance(document, dict):
        raise Malformed("the response is not a JSON object")
    return document


# Ollama -----------------------------------------------------------------------------------------------
_MESSAGE: Final = ("content", "thinking", "tool_calls", "images")
_OLLAMA: Final = ("response", "thinking", "done", "done_reason", "embeddings", "embedding")


def is_ollama(documents: list[Json]) -> bool:
    return any(map(_is_ollama, map(dictionary, documents)))


def _is_ollama(document: dict[str, Json]) -> bool:
    generated = isinstance(document.get("response"), str) or isinstance(document.get("message"), dict)
    embedded = isinstance(document.get("embeddings"), list) and "total_duration" in document
    return (type(document.get("done")) is bool and generated) or embedded


def ollama_whole(documents: list[Json]) -> dict[str, Json]:
    """The whole response, in the shape of one that was not streamed. Raises Malformed."""
    if not is_ollama(documents):
        raise Malformed("the response is none of Ollama's")
    whole = Assembly()
    for document in documents:
        raise_error(document)
        whole.add(dictionary(document))
    return whole.whole()


def ollama_content(document: dict[str, Json]) -> dict[str, Json]:
    """What of a whole response counts: texts, tool calls, why it ended; not times and counts."""
    message = dictionary(document.get("message"))
    said = without({key: message.get(key) for key in _MESSAGE})
    if "tool_calls" in said:
        said["tool_calls"] = [without(call, ("id",)) for call in sequence(said["tool_calls"])]
    return without({key: document.get(key) for key in _OLLAMA} | {"message": said})


# Seldon -----------------------------------------------------------------------------------------------
_DATA: Final = frozenset({"data", "jsonData", "strData", "binData"})


def is_seldon(documents: list[Json]) -> bool:
    document = dictionary(documents[0])
    return len(documents) == 1 and isinstance(document.get("meta"), dict) and bool(_DATA & document.keys())


def seldon_content(document: dict[str, Json]) -> dict[str, Json]:
    """The data and the tags; ids, routing and metrics are the server's own."""
    tags = dictionary(document.get("meta")).get("tags")
    return without(document, ("meta",)) | without({"meta": without({"tags": tags})})


# Generate: TGI, and Triton with vLLM or TensorRT-LLM ----------------------------------------------------
_GENERATED: Final = ("text_output", "generated_text")


def is_generate(documents: list[Json]) -> bool:
    return any(
        any(isinstance(document.get(key), str) for key in _GENERATED)
        for document in map(dictionary, documents)
    )


def generate_whole(documents: list[Json]) -> dict[str, Json]:
    """The whole response, in the shape of one that was not streamed. Raises Malformed."""
    for document in documents:
        raise_error(document)
    parts = [dictionary(document) for document in documents]
    whole = Assembly()
    for part in parts:
        whole.add(
            {key: value for key, value in part.items() if key != "token"}, REPLACED | {"generated_text"}
        )
    if not any(key in whole for key in _GENERATED):
        raise Malformed("the response has no generated text")
    if "token" in parts[-1] and not whole.get("generated_text"):  # it broke off
        whole["generated_text"] = "".join(_token(part) for part in parts)
    return whole.whole()


def _token(part: dict[str, Json]) -> str:
    token = dictionary(part.get("token"))
    return "" if token.get("special") else str(token.get("text", ""))


def generate_content(document: dict[str, Json]) -> dict[str, Json]:
    """The text and other outputs; not who made it, nor its details but why it ended."""
    kept = without(document, ("model_name", "model_version", "id", "index", "details"))
    reason = dictionary(document.get("details")).get("finish_reason")
    return kept | without({"details": without({"finish_reason": reason})})


# Predictions: TensorFlow Serving, MLflow ----------------------------------------------------------------
_PREDICTIONS: Final = frozenset({"predictions", "outputs"})


def is_predictions(documents: list[Json]) -> bool:
    return len(documents) == 1 and bool(_PREDICTIONS & dictionary(documents[0]).keys())


def predictions_whole(documents: list[Json]) -> Json:
    """The document. Raises Malformed."""
    return _one(documents)


def predictions_content(document: Json) -> dict[str, Json]:
    """The predictions alone: TF Serving's by row or by column, MLflow's, or a bare list. Raises Malformed."""
    if isinstance(document, list):
        return {"predictions": document}
    found = {key: value for key, value in dictionary(document).items() if key in _PREDICTIONS}
    if not found:
        raise Malformed("the response has no 'predictions' and no 'outputs'")
    return found
