"""Two addresses: requests and rewards on one, the control API on the other."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.processes import GatewayProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
control: 127.0.0.2:@PORT@
store: sqlite:///@DIR@/turnout.db
backends: {a: {url: "http://127.0.0.1:9"}}
routes:
  fixed:
    match: {path: /fixed}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, text: here}}]
"""


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_listeners_of_one_port_are_told_apart_by_their_address(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """S7: the port alone decided, so the public address served the control API and no route."""
    with GatewayProcess(tmp_path, CONFIG, *options) as gateway:
        data, control = gateway.url, f"http://127.0.0.2:{gateway.port}"
        assert httpx.get(f"{data}/fixed").text == "here"
        for path in ("/-/config", "/-/routes", "/-/dashboard/", "/-/metrics"):
            assert httpx.get(f"{data}{path}").status_code == 404, path
            assert httpx.get(f"{control}{path}").status_code == 200, path
        assert httpx.get(f"{control}/fixed").json()["error"]["code"] == "unknown_route"
        assert httpx.get(f"{data}/-/healthz").status_code == 200


ANYWHERE = CONFIG.replace("listen: 127.0.0.1:@PORT@", 'listen: ":@PORT@"').replace("control:", "# control:")
HASH = "sha256:" + 64 * "0"


@pytest.mark.parametrize("auth", ["", f'auth: {{keys: [{{id: a, hash: "{HASH}", scopes: [infer]}}]}}\n'])
def test_a_port_alone_is_every_address_and_the_root_names_the_dashboard(tmp_path: Path, auth: str) -> None:
    with GatewayProcess(tmp_path, auth + ANYWHERE) as gateway:
        for host in ("127.0.0.1", "127.0.0.2"):
            refused = httpx.get(f"http://{host}:{gateway.port}/")
            assert refused.status_code == 404
            named = "the dashboard is at /-/dashboard/" in refused.json()["error"]["message"]
            assert named == (not auth), "clients learn nothing of a gateway that asks for keys"
