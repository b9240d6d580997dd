"""GET /v1/models of a real gateway."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from gateway.control.schemas.models import ModelsResponse
from tests.support.processes import GatewayProcess

CONFIG = """\
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
auth:
  keys:
    - {id: all, hash: "HASH-all", scopes: [infer, read]}
    - {id: chat, hash: "HASH-chat", scopes: [infer], routes: [chat]}
backends: {a: {url: "http://127.0.0.1:9"}}
routes:
  chat:
    match: {path: /v1, model: [small, large]}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
  embed:
    match: {path: /v1/embeddings, model: vectors}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""


@pytest.mark.parametrize("path", ["/v1", "/v1/chat/completions"])
def test_models_of_the_routes_that_a_key_may_use(tmp_path: Path, path: str) -> None:
    text = CONFIG.replace("path: /v1, model", f"path: {path}, model")
    for key in ("all", "chat"):
        text = text.replace(f"HASH-{key}", f"sha256:{hashlib.sha256(key.encode()).hexdigest()}")
    with GatewayProcess(tmp_path, text) as gateway:

        def models(key: str) -> dict[str, str]:
            found = httpx.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {key}"})
            assert found.status_code == 200, found.text
            return {model.id: model.owned_by for model in ModelsResponse.model_validate(found.json()).data}

        assert models("all") == {"small": "chat", "large": "chat", "vectors": "embed"}
        assert models("chat") == {"small": "chat", "large": "chat"}
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 401
        reader = {"x-api-key": "all"}
        assert httpx.get(f"{gateway.url}/v1/models/small", headers=reader).status_code == 404
        assert gateway.stop() == 0
        gateway.start()
        assert httpx.get(f"{gateway.url}/-/outcomes", headers=reader).json()["outcomes"] == []


def test_without_routes_by_model_it_is_as_any_other_path(tmp_path: Path) -> None:
    with GatewayProcess(
        tmp_path, "listen: 127.0.0.1:@PORT@\nstore: sqlite:///@DIR@/t.db\nroutes: {}\n"
    ) as gateway:
        refused = httpx.get(f"{gateway.url}/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_route")
