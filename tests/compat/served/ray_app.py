"""Ray Serve: ``ray_app.py PORT``; a number comes back times the variable FACTOR."""

import os
import sys

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment
class Scaled:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    async def __call__(self, request: Request) -> dict[str, float]:
        return {"output": (await request.json())["x"] * self.factor}


if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Scaled.bind(float(os.environ["FACTOR"])), blocking=True)
