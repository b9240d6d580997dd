"""A classifier; THRESHOLD sets where the label changes."""

import os

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
THRESHOLD = float(os.environ.get("THRESHOLD", "0.5"))


class Features(BaseModel):
    x: float


@app.post("/classify")
def classify(features: Features) -> dict[str, object]:
    return {"label": "high" if features.x > THRESHOLD else "low", "score": features.x - THRESHOLD}
