"""Two language models behind OpenAI's API: `lower` and `upper`."""

import time
import uuid

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Message(BaseModel):
    role: str
    content: str


class Completion(BaseModel):
    model: str
    messages: list[Message]


@app.post("/v1/chat/completions")
def complete(request: Completion) -> dict[str, object]:
    text = f"You said: {request.messages[-1].content}"
    reply = text.upper() if request.model == "upper" else text.lower()
    message = {"role": "assistant", "content": reply}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
