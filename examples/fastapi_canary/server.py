"""A model behind FastAPI; FAULTY is the share of requests that fail."""

import os
import random

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()
FAULTY = float(os.environ.get("FAULTY", "0"))


class Features(BaseModel):
    x: list[float]


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
def predict(features: Features) -> dict[str, bool]:
    if random.random() < FAULTY:
        raise HTTPException(500)
    return {"positive": sum(features.x) > 0}
