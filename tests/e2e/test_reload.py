"""SIGHUP, certificates and secret files, with two workers."""

from __future__ import annotations

import hashlib
import signal
import ssl
from pathlib import Path

import httpx

from tests.e2e.common import wait_for
from tests.e2e.test_tls import Issuer
from tests.support.processes import GatewayProcess

CONFIG = """\
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 1h}
tls: {cert: "@DIR@/server.pem", key: "@DIR@/server.key"}
auth: {keys: [{id: app, hash: "${file:@DIR@/hash}", scopes: [read]}]}
routes: {}
"""


def sealed(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}\n"


def test_sighup_reads_everything_again(tmp_path: Path) -> None:
    issuer, trust = Issuer(tmp_path), ssl.create_default_context()
    trust.load_verify_locations(tmp_path / "ca.pem")
    issuer.issue("server")

    def allow(secret: str) -> None:
        (tmp_path / "hash").write_text(sealed(secret))

    allow("first")
    with GatewayProcess(tmp_path, CONFIG, "--workers", "2", ready=False) as gateway:
        url = gateway.url.replace("http", "https")

        def status(secret: str) -> set[int]:
            """Of several connections, so that both workers respond."""
            return {
                httpx.get(f"{url}/-/routes", headers={"x-api-key": secret}, verify=trust).status_code
                for _ in range(8)
            }

        def certificate() -> bytes:
            text = ssl.get_server_certificate(("127.0.0.1", gateway.port))
            return ssl.PEM_cert_to_DER_cert(text)

        wait_for(lambda: gateway.log.count(" ready") == 2)
        assert status("first") == {200}
        before = certificate()
        allow("second")
        issuer.issue("server")
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(lambda: status("second") == {200})
        assert status("first") == {401}
        assert certificate() != before
        wait_for(lambda: "is in force with its files as they are now" in gateway.log)
        gateway.write(CONFIG.replace("scopes: [read]", "scopes: [metrics]"))
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(lambda: status("second") == {403})
        assert gateway.stop() == 0


def test_a_secret_file_is_watched(tmp_path: Path) -> None:
    secret = tmp_path / "hash"
    secret.write_text(sealed("first"))
    config = CONFIG.replace("watch: 1h", "watch: 100ms").replace("tls:", "# tls:")
    with GatewayProcess(tmp_path, config) as gateway:

        def status(key: str) -> int:
            return httpx.get(f"{gateway.url}/-/routes", headers={"x-api-key": key}).status_code

        assert status("first") == 200
        secret.write_text(sealed("second"))
        wait_for(lambda: status("second") == 200)
        assert status("first") == 401
