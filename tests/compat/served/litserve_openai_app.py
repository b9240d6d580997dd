"""LitServe with its OpenAI endpoint: ``litserve_openai_app.py PORT``; a chat that says what FACTOR is."""

import os
import sys

import litserve


class Chat(litserve.LitAPI):
    def setup(self, device):
        self.text = f"Times {os.environ['FACTOR']}, always."

    def predict(self, messages):
        yield from self.text.split(" ")

    def encode_response(self, outputs):
        for word in outputs:
            yield {"role": "assistant", "content": word + " "}


if __name__ == "__main__":
    litserve.LitServer(Chat(spec=litserve.OpenAISpec()), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
