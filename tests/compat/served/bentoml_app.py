"""BentoML: ``bentoml_app.py PORT``; a number comes back times the variable FACTOR, whole and as a stream."""

import os
import sys
from collections.abc import AsyncIterator

import bentoml


@bentoml.service
class Scaled:
    @bentoml.api
    def predict(self, x: float) -> dict:
        return {"output": x * float(os.environ["FACTOR"])}

    @bentoml.api
    async def stream(self, x: float) -> AsyncIterator[str]:
        for word in f"{x} times {os.environ['FACTOR']}".split():
            yield word + " "


if __name__ == "__main__":
    bentoml.serve("bentoml_app:Scaled", host="127.0.0.1", port=int(sys.argv[1]), blocking=True)
