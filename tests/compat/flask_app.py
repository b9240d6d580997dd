"""A classifier behind Flask, for gunicorn: ``gunicorn tests.compat.flask_app:app``."""

from __future__ import annotations

import os
import time
from typing import Any

from flask import Flask, request

app = Flask(__name__)


@app.get("/healthz")
def health() -> str:
    return "ok"


@app.post("/predict")
def predict() -> dict[str, Any]:
    score = sum(request.get_json()["x"]) / 7
    return {"label": os.environ["SAYS"], "score": score, "meta": {"at": time.time()}}
