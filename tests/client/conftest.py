"""A gateway process before a small HTTP server that speaks v2 and OpenAI's chat."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.http_server import Handler, HttpServer
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


class Models(Handler):
    def do_POST(self) -> None:
        asked = json.loads(self.content())
        if self.path.startswith("/v2/"):
            tensor = asked["inputs"][0]
            self.respond({"model_name": "digits", "outputs": [{**tensor, "name": "echo"}]})
        else:
            message = {"role": "assistant", "content": "four"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.respond(
                {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with HttpServer(Models) as server:
        config = CONFIG.replace("@BACKEND@", str(server.server_port))
        with GatewayProcess(tmp_path_factory.mktemp("client"), config) as process:
            yield process
