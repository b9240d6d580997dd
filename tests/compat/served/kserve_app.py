"""KServe's model server: ``kserve_app.py PORT GRPC_PORT``; `x` comes back times the variable FACTOR, as `y`."""

import os
import sys

import kserve
from kserve import InferOutput, InferRequest, InferResponse


class Scaled(kserve.Model):
    def __init__(self):
        super().__init__("m")
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        factor = float(os.environ["FACTOR"])
        if not isinstance(payload, InferRequest):
            return {"predictions": [value * factor for value in payload["instances"]]}
        x = payload.inputs[0].as_numpy()
        y = InferOutput("y", list(x.shape), "FP32")
        y.set_data_from_numpy((x * factor).astype("f4"), binary_data=False)
        return InferResponse(payload.id or "", "m", [y])


if __name__ == "__main__":
    http, grpc = map(int, sys.argv[1:3])
    kserve.ModelServer(http_port=http, grpc_port=grpc, workers=1).start([Scaled()])
