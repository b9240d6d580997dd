"""LitServe: ``litserve_app.py PORT``; a number comes back times the variable FACTOR."""

import os
import sys

import litserve


class Scaled(litserve.LitAPI):
    def setup(self, device):
        self.factor = float(os.environ["FACTOR"])

    def decode_request(self, request):
        return request["input"]

    def predict(self, x):
        return x * self.factor

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    litserve.LitServer(Scaled(), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
