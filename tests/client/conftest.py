"""A gateway process before a small HTTP server that speaks v2 and OpenAI's chat."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.processes import GatewayProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
record: {request_ids: true}
metrics:
  correct: {type: boolean}
  rating: {type: fraction}
backends: {models: {url: "http://127.0.0.1:@BACKEND@"}}
routes:
  digits:
    match: {path: /v2/models/digits}
    variants: {v1: {backend: models}, v2: {backend: models}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  chat:
    match: {path: /v1/chat/completions}
    variants: {small: {backend: models}}
    policy: {type: single, variant: small}
"""


class Models(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.startswith("/v2/"):
            tensor = asked["inputs"][0]
            self._send({"model_name": "digits", "outputs": [{**tensor, "name": "echo"}]})
        else:
            message = {"role": "assistant", "content": "four"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(
                {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            )

    def _send(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = CONFIG.replace("@BACKEND@", str(server.server_port))
    with GatewayProcess(tmp_path_factory.mktemp("client"), config) as process:
        yield process
    server.shutdown()
    server.server_close()
