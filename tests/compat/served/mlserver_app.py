"""MLServer: ``mlserver_app.py PORT GRPC_PORT METRICS_PORT``; `x` comes back times the variable FACTOR, as `y`."""

import asyncio
import os
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Scaled(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        y = NumpyCodec.encode_output("y", x * float(os.environ["FACTOR"]))
        return InferenceResponse(model_name=self.name, outputs=[y])


async def main(port: int, grpc_port: int, metrics_port: int) -> None:
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            parallel_workers=0,
        )
    )
    await server.start([ModelSettings(name="m", implementation=Scaled)])


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
