"""A chat model behind FastAPI: ``python -m tests.compat.fastapi_app PORT``; it says what the variable SAYS says."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from tests.compat.llm import Model

app = FastAPI()
model = Model(os.environ.get("SAYS", "sound"), 0.05)


class Asked(BaseModel):
    model: str
    messages: list[dict[str, Any]]
    stream: bool = False


@app.get("/healthz")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/v1/chat/completions")
async def chat(asked: Asked, request: Request) -> Response:
    assert asked.model
    return await model.chat(request)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
