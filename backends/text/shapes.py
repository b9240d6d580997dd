"""How the text APIs write what is generated: OpenAI's completions, Triton's generate extension."""

from __future__ import annotations

import time
import uuid
from typing import Final, Protocol

import orjson

from backends.errors import NotFound, ServerError
from backends.http.message import Request, Response, as_json, error_response
from backends.text.generation import Generation, Sampling
from backends.text.served import TextServed

EVENT_STREAM: Final = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))


class Shape(Protocol):
    """How one API writes what is generated."""

    def pieces(self, text: str) -> list[object]:
        """The events for more text."""
        ...

    def last(self, reason: str, prompt: int, tokens: int) -> list[object]:
        """The events at the end."""
        ...

    def whole(self, text: str, reason: str, prompt: int, tokens: int) -> object:
        """The document of a response that is not streamed."""
        ...

    def error(self, error: ServerError) -> Response:
        """An error in this API's form."""
        ...


class TextCall(Generation):
    """A generation that responds to an HTTP request."""

    def __init__(
        self, request: Request, shape: Shape, prompt: bytes, sampling: Sampling, *, stream: bool, done: bool
    ) -> None:
        super().__init__(prompt, sampling)
        self._request = request
        self._shape = shape
        self._stream = stream
        self._done = done
        """Whether a stream ends with `[DONE]`."""
        self._texts: list[str] = []
        self._started = False
        request.abandon = self._leave

    def _leave(self) -> None:
        self.cancelled = True

    def piece(self, text: str) -> None:
        """See `Generation`."""
        if self._stream:
            self._send(self._shape.pieces(text))
        else:
            self._texts.append(text)

    def end(self, reason: str) -> None:
        """See `Generation`."""
        prompt = len(self.prompt)
        self._request.abandon = None
        if not self._stream:
            self._request.respond(
                as_json(self._shape.whole("".join(self._texts), reason, prompt, self.tokens))
            )
            return
        self._send(self._shape.last(reason, prompt, self.tokens))
        if self._done:
            self._request.send(b"data: [DONE]\n\n")
        self._request.end()

    def error(self, error: ServerError) -> None:
        """See `Generation`."""
        self._request.abandon = None
        response = self._shape.error(error)
        if self._started:
            self._request.send(b"data: %b\n\n" % response.body)
            self._request.end()
        else:
            self._request.respond(response)

    def _send(self, events: list[object]) -> None:
        if not self._started:
            self._started = True
            self._request.start(EVENT_STREAM)
        self._request.send(b"".join([b"data: %b\n\n" % orjson.dumps(event) for event in events]))


class OpenAIShape:
    """Chat completions (``chat``) or completions."""

    def __init__(self, model: str, *, chat: bool, usage: bool) -> None:
        self._chat = chat
        self._usage = usage
        self._first = True
        self._base = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def pieces(self, text: str) -> list[object]:
        """See `Shape`."""
        return [*self._opening(), self._chunk({"content": text} if self._chat else text, None)]

    def last(self, reason: str, prompt: int, tokens: int) -> list[object]:
        """See `Shape`."""
        events = [*self._opening(), self._chunk({} if self._chat else "", reason)]
        if self._usage:
            events.append({**self._streamed(), "choices": [], "usage": _usage(prompt, tokens)})
        return events

    def whole(self, text: str, reason: str, prompt: int, tokens: int) -> object:
        """See `Shape`."""
        content: dict[str, object] = (
            {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        )
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        return {**self._base, "choices": [choice], "usage": _usage(prompt, tokens)}

    def error(self, error: ServerError) -> Response:
        """See `Shape`."""
        return openai_error(error)

    def _opening(self) -> list[object]:
        if not self._chat or not self._first:
            return []
        self._first = False
        return [self._chunk({"role": "assistant", "content": ""}, None)]

    def _chunk(self, content: object, reason: str | None) -> object:
        choice = {
            "index": 0,
            "delta" if self._chat else "text": content,
            "logprobs": None,
            "finish_reason": reason,
        }
        return {**self._streamed(), "choices": [choice], **({"usage": None} if self._usage else {})}

    def _streamed(self) -> dict[str, object]:
        return {**self._base, **({"object": "chat.completion.chunk"} if self._chat else {})}


class GenerateShape:
    """Triton's generate extension."""

    def __init__(self, served: TextServed, request_id: str | None) -> None:
        self._base: dict[str, object] = {"model_name": served.name, "model_version": served.version}
        if request_id is not None:
            self._base["id"] = request_id

    def pieces(self, text: str) -> list[object]:
        """See `Shape`."""
        return [{**self._base, "text_output": text}]

    def last(self, reason: str, prompt: int, tokens: int) -> list[object]:
        """See `Shape`."""
        return []

    def whole(self, text: str, reason: str, prompt: int, tokens: int) -> object:
        """See `Shape`."""
        return {**self._base, "text_output": text}

    def error(self, error: ServerError) -> Response:
        """See `Shape`."""
        return error_response(error)


def openai_error(error: ServerError) -> Response:
    """``error`` in OpenAI's form."""
    response = error_response(error)
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    code = "model_not_found" if isinstance(error, NotFound) else None
    response.body = orjson.dumps(
        {"error": {"message": error.message, "type": kind, "param": None, "code": code}}
    )
    return response


def _usage(prompt: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
