"""`digits` as one writes it with FastAPI in an afternoon: the model in the event loop, JSON and binary."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from safetensors.torch import load_model

from backends.reference import convolutional, linear

_MODELS = Path(os.environ["MODELS"]) / "digits"
_VERSIONS = {"1": linear.Model().eval(), "2": convolutional.Model().eval()}

app = FastAPI()


@app.post("/v2/models/digits/versions/{version}/infer")
async def infer(version: str, request: Request) -> Response:
    body = await request.body()
    size = int(request.headers.get("inference-header-content-length", len(body)))
    document = json.loads(body[:size])
    (tensor,) = document["inputs"]
    pixels = np.array(tensor["data"], "<f4") if size == len(body) else np.frombuffer(body[size:], "<f4")
    with torch.inference_mode():
        outputs = _VERSIONS[version](torch.from_numpy(pixels.reshape(tensor["shape"]).copy()))
    arrays = {name: value.numpy() for name, value in outputs.items()}
    types = {"scores": "FP32", "label": "INT64"}
    entries: list[dict[str, object]] = [
        {"name": name, "datatype": types[name], "shape": array.shape} for name, array in arrays.items()
    ]
    answer = {"model_name": "digits", "model_version": version, "outputs": entries}
    if size == len(body):
        for entry, array in zip(entries, arrays.values(), strict=True):
            entry["data"] = array.ravel().tolist()
        return Response(json.dumps(answer), media_type="application/json")
    for entry, array in zip(entries, arrays.values(), strict=True):
        entry["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps(answer).encode()
    return Response(
        head + b"".join(array.tobytes() for array in arrays.values()),
        media_type="application/octet-stream",
        headers={"inference-header-content-length": str(len(head))},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for version, model in _VERSIONS.items():
        load_model(model, _MODELS / version / "model.safetensors")
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
