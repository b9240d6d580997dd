"""OpenAI's completions and Triton's generate extension over `TextServed`, whole and as server-sent events."""

from __future__ import annotations

from typing import Any, Final

from backends.errors import InvalidInput, NotFound
from backends.http.message import Request, as_json
from backends.registry import Registry
from backends.text.generation import Sampling
from backends.text.served import TextServed
from backends.text.shapes import GenerateShape, OpenAIShape, TextCall
from backends.wire.document import json_object

MAX_TOKENS: Final = 4096
MAX_STOPS: Final = 4


class TextApi:
    """The calls; each responds to its request, or raises ServerError."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def models(self, request: Request) -> None:
        """``GET /v1/models``."""
        request.respond(as_json({"object": "list", "data": [_model(name) for name in self._names()]}))

    def model(self, request: Request, name: str) -> None:
        """``GET /v1/models/{name}``. Raises NotFound."""
        self._find(name)
        request.respond(as_json(_model(name)))

    def complete(self, request: Request, body: bytes, *, chat: bool) -> None:
        """``POST /v1/chat/completions`` and ``/v1/completions``. Raises InvalidInput, NotFound, Unavailable."""
        document = json_object(body)
        name = _text(document, "model")
        served = self._find(name)
        prompt = _messages(document.get("messages")) if chat else _prompt(document.get("prompt"))
        _refuse_unserved(document)
        stream = _flag(document, "stream")
        options = document.get("stream_options") or {}
        if type(options) is not dict:
            raise InvalidInput('stream_options is not a JSON object; send {"include_usage": true}')
        shape = OpenAIShape(name, chat=chat, usage=_flag(options, "include_usage"))
        limit = "max_completion_tokens" if "max_completion_tokens" in document else "max_tokens"
        sampling = sampling_of(document, limit)
        served.generate(TextCall(request, shape, prompt, sampling, stream=stream, done=True))

    def generate(self, request: Request, body: bytes, name: str, version: str, *, stream: bool) -> None:
        """``POST /v2/models/{name}/generate`` and ``…_stream``. Raises InvalidInput, NotFound, Unavailable."""
        served = self._registry.find(name, version)
        if not isinstance(served, TextServed):
            raise NotFound(f"model {name!r} does not generate text; POST to its infer")
        document = json_object(body)
        parameters = document.get("parameters") or {}
        if type(parameters) is not dict:
            raise InvalidInput("parameters is not a JSON object; send one, or none")
        identity = document.get("id")
        if identity is not None and type(identity) is not str:
            raise InvalidInput("id is not a string; send it in quotes")
        sampling = sampling_of({**document, **parameters}, "max_tokens")
        prompt = _text(document, "text_input").encode()
        shape = GenerateShape(served, identity)
        served.generate(TextCall(request, shape, prompt, sampling, stream=stream, done=False))

    def _names(self) -> list[str]:
        names = []
        for model in self._registry.models.values():
            versions = [
                one for one in model.versions.values() if isinstance(one, TextServed) and not one.fault
            ]
            if versions:
                names += [model.name, *(f"{model.name}-{one.version}" for one in versions)]
        return names

    def _find(self, name: str) -> TextServed:
        """``NAME`` is the newest version of a model, ``NAME-VERSION`` one of them."""
        base, _, version = name.rpartition("-")
        exact = name in self._registry.models or not version.isdigit()
        try:
            served = self._registry.find(name) if exact else self._registry.find(base, version)
        except NotFound:
            served = None
        if not isinstance(served, TextServed):
            raise NotFound(
                f"there is no language model {name!r}; there are {', '.join(self._names()) or 'none'}"
            )
        return served


def sampling_of(document: dict[str, Any], limit: str) -> Sampling:
    """The sampling parameters in ``document``, whose maximum of tokens is called ``limit``.

    Raises InvalidInput.
    """
    stop = document.get("stop")
    stops = [stop] if type(stop) is str else [] if stop is None else stop
    if (
        type(stops) is not list
        or len(stops) > MAX_STOPS
        or not all(type(one) is str and one for one in stops)
    ):
        raise InvalidInput(
            f"stop is not a string or a list of up to {MAX_STOPS}; send strings that are not empty"
        )
    seed = document.get("seed")
    if seed is not None and (type(seed) is not int or not -(2**63) <= seed < 2**63):
        raise InvalidInput("seed is not a whole number of 64 bits; send one, or none")
    return Sampling(
        max_tokens=int(_number(document, limit, 128, 1, MAX_TOKENS, whole=True)),
        temperature=_number(document, "temperature", 1.0, 0, 2),
        top_p=_number(document, "top_p", 1.0, 0, 1),
        stop=tuple(stops),
        seed=seed,
    )


def _number(
    document: dict[str, Any], name: str, default: float, low: float, high: float, *, whole: bool = False
) -> float:
    value = document.get(name)
    if value is None:
        return default
    if type(value) not in ((int,) if whole else (int, float)) or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise InvalidInput(f"{name} is not a {kind} from {low:g} to {high:g}; send one, or none")
    return float(value)


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if type(value) is not str:
        raise InvalidInput(f"{name} is not a string; send one")
    return value


def _flag(document: dict[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidInput(f"{name} is not a boolean; send true or false")
    return bool(value)


def _prompt(prompt: object) -> bytes:
    if type(prompt) is list and len(prompt) == 1:
        prompt = prompt[0]
    if type(prompt) is not str:
        raise InvalidInput("prompt is not a string; send one string")
    return prompt.encode()


def _messages(messages: object) -> bytes:
    """The contents of all messages, one paragraph each: the model continues texts, it knows no roles."""
    if type(messages) is not list or not messages:
        raise InvalidInput("messages is not a list of messages; send at least one")
    return "\n\n".join(_content(message) for message in messages).encode()


def _content(message: object) -> str:
    content = message.get("content") if type(message) is dict else None
    if type(content) is list:
        parts = [
            part.get("text") if type(part) is dict and part.get("type") == "text" else None
            for part in content
        ]
        if None not in parts and set(map(type, parts)) <= {str}:
            return "".join(parts)  # type: ignore[arg-type]
    if type(content) is not str:
        raise InvalidInput("the content of a message is not text; send a string, or parts of type text")
    return content


def _refuse_unserved(document: dict[str, Any]) -> None:
    if document.get("n") not in (None, 1) or document.get("best_of") not in (None, 1):
        raise InvalidInput("one choice is generated for each request; send n: 1, or none")
    for name in ("tools", "functions", "logprobs", "top_logprobs", "response_format", "suffix", "logit_bias"):
        if document.get(name):
            raise InvalidInput(f"{name} is not served here; leave it out")


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "turnout"}
