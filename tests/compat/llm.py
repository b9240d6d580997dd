"""A server of language models as they are built with Starlette, with ids, times and chunks of its own.

``python -m tests.compat.llm PORT --linger SECONDS``. What a response says depends on the request and on the
variable SAYS alone; everything else is chance, as it is in real servers. Streams end ``--linger`` seconds after their
last event. The models of `ERRORS` respond with an error, `slow` does not respond, and streams of `cut` break off.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]
ERRORS: dict[str, tuple[int, str, str, str | None]] = {
    "busy": (429, "Rate limit reached for requests", "requests", "rate_limit_exceeded"),
    "long": (400, "This model's maximum context length is 8192 tokens.", "invalid_request_error", "too_long"),
    "broken": (500, "The server had an error processing your request.", "server_error", None),
}
"""By model: status, message, type and code, in OpenAI's shape."""


def words(text: str) -> Iterator[str]:
    """``text`` in pieces of random length."""
    while text:
        size = random.randint(1, 7)
        yield text[:size]
        text = text[size:]


def fresh(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


class Model:
    def __init__(self, says: str, linger: float) -> None:
        self.says = says
        self.linger = linger

    def reply(self, body: Json, key: str) -> str:
        asked = json.dumps(body.get(key))
        return f"{self.says}: an answer to {zlib.crc32(asked.encode())}, with some more words behind it."

    def stream(self, events: list[tuple[str, Json | str]]) -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            for name, data in events:
                if data == "[CUT]":
                    raise ConnectionError("this stream breaks off")
                text = data if isinstance(data, str) else json.dumps(data)
                yield (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()
                await asyncio.sleep(0)
            await asyncio.sleep(self.linger)

        return StreamingResponse(lines(), media_type="text/event-stream")

    # OpenAI -----------------------------------------------------------------------------------------
    async def chat(self, request: Request) -> Response:
        body = await request.json()
        model = body["model"]
        if model in ERRORS:
            status, message, kind, code = ERRORS[model]
            error = {"message": message, "type": kind, "param": None, "code": code}
            return JSONResponse({"error": error}, status)
        if model == "slow":
            await asyncio.sleep(3600)
        text = self.reply(body, "messages")
        frame = {"id": fresh("chatcmpl"), "created": int(time.time()), "model": model}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}
            return JSONResponse(
                frame
                | {"object": "chat.completion", "choices": [choice | {"logprobs": None}], "usage": usage}
            )

        def chunk(delta: Json, finish: str | None = None) -> tuple[str, Json]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return "", frame | {"object": "chat.completion.chunk", "choices": [choice]}

        parts = [chunk({"content": part}) for part in words(text)]
        first = chunk({"role": "assistant", "content": ""})
        last: list[tuple[str, Json | str]] = [chunk({}, "stop")]
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}
            last.append(("", frame | {"object": "chat.completion.chunk", "choices": [], "usage": usage}))
        if model == "cut":
            last = [("", "[CUT]")]
        if model == "endless":
            parts *= 10_000
        return self.stream([first, *parts, *last, ("", "[DONE]")])

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        text = self.reply(body, "prompt")
        frame = {"id": fresh("cmpl"), "object": "text_completion", "created": int(time.time()), "model": "m"}

        def document(part: str, finish: str | None) -> Json:
            return frame | {
                "choices": [{"index": 0, "text": part, "finish_reason": finish, "logprobs": None}]
            }

        if not body.get("stream"):
            return JSONResponse(document(text, "stop"))
        parts: list[tuple[str, Json | str]] = [("", document(part, None)) for part in words(text)]
        return self.stream([*parts, ("", document("", "stop")), ("", "[DONE]")])

    async def responses(self, request: Request) -> Response:
        body = await request.json()
        text, item = self.reply(body, "input"), fresh("msg")
        part = {"type": "output_text", "text": text, "annotations": []}
        message = {
            "id": item, "type": "message", "role": "assistant", "status": "completed", "content": [part]
        }  # fmt: skip
        whole = {
            "id": fresh("resp"), "object": "response", "created_at": time.time(), "status": "completed",
            "model": body["model"], "output": [message], "parallel_tool_calls": True, "tool_choice": "auto",
            "tools": [], "error": None, "incomplete_details": None,
            "usage": {
                "input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 9,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10,
            },
        }  # fmt: skip
        if not body.get("stream"):
            return JSONResponse(whole)
        begun = whole | {"status": "in_progress", "output": []}
        where = {"item_id": item, "output_index": 0, "content_index": 0}
        shell = message | {"status": "in_progress", "content": []}
        events: list[tuple[str, Json]] = [
            ("response.created", {"response": begun}),
            ("response.output_item.added", {"output_index": 0, "item": shell}),
            ("response.content_part.added", where | {"part": part | {"text": ""}}),
            *(
                ("response.output_text.delta", where | {"delta": piece, "logprobs": []})
                for piece in words(text)
            ),
            ("response.output_text.done", where | {"text": text, "logprobs": []}),
            ("response.content_part.done", where | {"part": part}),
            ("response.output_item.done", {"output_index": 0, "item": message}),
            ("response.completed", {"response": whole}),
        ]
        return self.stream(
            [
                (name, {"type": name, "sequence_number": place} | data)
                for place, (name, data) in enumerate(events)
            ]
        )

    async def embeddings(self, request: Request) -> Response:
        body = await request.json()
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = []
        for index, text in enumerate(texts):
            seed = zlib.crc32(f"{self.says} {text}".encode())
            noise = np.random.default_rng().normal(0, 1e-6, 64)  # another batch, another order of summation
            vector = (np.random.default_rng(seed).normal(0, 1, 64) + noise).astype("<f4")
            coded = base64.b64encode(vector.tobytes()).decode()
            value = coded if body.get("encoding_format") == "base64" else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": value})
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return JSONResponse({"object": "list", "data": data, "model": fresh("m"), "usage": usage})

    # Tokens in a shape of its own -------------------------------------------------------------------
    async def sse(self, request: Request) -> Response:
        text = self.reply(await request.json(), "text")
        return self.stream([("", {"id": fresh("t"), "token": {"text": part}}) for part in words(text)])

    # Anthropic --------------------------------------------------------------------------------------
    async def messages(self, request: Request) -> Response:
        body = await request.json()
        text = self.reply(body, "messages")
        usage = {"input_tokens": 1, "output_tokens": 9}
        whole = {
            "id": fresh("msg"), "type": "message", "role": "assistant", "model": body["model"],
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
            "usage": usage,
        }  # fmt: skip
        if not body.get("stream"):
            return JSONResponse(whole)
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        events: list[tuple[str, Json]] = [
            (
                "message_start",
                {
                    "message": whole
                    | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
                },
            ),
            ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            ("ping", {}),
            *(
                ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}})
                for piece in words(text)
            ),
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": delta, "usage": {"output_tokens": 9}}),
            ("message_stop", {}),
        ]
        return self.stream([(name, {"type": name} | data) for name, data in events])


def app(says: str, linger: float) -> Starlette:
    model = Model(says, linger)

    async def health(request: Request) -> Response:
        return Response("ok")

    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/sse", model.sse, methods=["POST"]),
            Route("/v1/chat/completions", model.chat, methods=["POST"]),
            Route("/v1/completions", model.completions, methods=["POST"]),
            Route("/v1/responses", model.responses, methods=["POST"]),
            Route("/v1/embeddings", model.embeddings, methods=["POST"]),
            Route("/v1/messages", model.messages, methods=["POST"]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--linger", type=float, default=0.0)
    options = parser.parse_args()
    uvicorn.run(
        app(os.environ.get("SAYS", "sound"), options.linger),
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
