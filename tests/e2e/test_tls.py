"""TLS on both sides: to clients, with and without their certificates, and to backends, verified by default."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
limits: {header_timeout: 2s}
tls: {cert: "@PKI@/server.pem", key: "@PKI@/server.key", client_ca: "@PKI@/ca.pem", client_auth: required, hsts: 1d}
backends:
  good:
    url: "https://localhost:@BACKEND@"
    tls: {ca: "@PKI@/ca.pem", cert: "@PKI@/client.pem", key: "@PKI@/client.key"}
  stranger: {url: "https://localhost:@BACKEND@", tls: {cert: "@PKI@/client.pem", key: "@PKI@/client.key"}}
  misnamed:
    url: "https://localhost:@BACKEND@"
    tls: {ca: "@PKI@/ca.pem", cert: "@PKI@/client.pem", key: "@PKI@/client.key", server_name: elsewhere.example}
  anonymous: {url: "https://localhost:@BACKEND@", tls: {ca: "@PKI@/ca.pem"}}
  careless:
    url: "https://localhost:@BACKEND@"
    tls: {verify: false, cert: "@PKI@/client.pem", key: "@PKI@/client.key"}
routes:
  good: {match: {path: /good}, variants: {v1: {backend: good}}, policy: {type: single, variant: v1}}
  stranger: {match: {path: /stranger}, variants: {v1: {backend: stranger}}, policy: {type: single, variant: v1}}
  misnamed: {match: {path: /misnamed}, variants: {v1: {backend: misnamed}}, policy: {type: single, variant: v1}}
  anonymous: {match: {path: /anonymous}, variants: {v1: {backend: anonymous}}, policy: {type: single, variant: v1}}
  careless: {match: {path: /careless}, variants: {v1: {backend: careless}}, policy: {type: single, variant: v1}}
"""


@dataclass
class Issuer:
    folder: Path
    authority: str = "ca"

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Turnout tests")])
        self._write(self.authority, self._made(self.name, self.key, authority=True), self.key)

    def issue(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._write(name, self._made(subject, key, authority=False), key)

    def _made(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usage = x509.KeyUsage(True, False, False, False, False, authority, authority, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


class Plain(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.headers["x-forwarded-proto"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Failed handshakes are what some tests are about."""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    issuer = Issuer(folder)
    for name in ("server", "client"):
        issuer.issue(name)
    Issuer(folder, "elsewhere").issue("stranger")
    return folder


@pytest.fixture(scope="module")
def gateway(pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    backend = Quiet(("127.0.0.1", 0), Plain)
    backend.socket = context.wrap_socket(backend.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    text = CONFIG.replace("@BACKEND@", str(backend.server_address[1])).replace("@PKI@", str(pki))
    with GatewayProcess(tmp_path_factory.mktemp("tls"), text, ready=False) as found:
        with client(found, pki) as asking:
            for _ in range(300):
                try:
                    if asking.get("/-/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    threading.Event().wait(0.1)
        yield found
    backend.shutdown()
    backend.server_close()


def client(gateway: GatewayProcess, pki: Path, *, certificate: str = "client") -> httpx.Client:
    return httpx.Client(
        base_url=f"https://localhost:{gateway.port}", verify=trust(pki, certificate), timeout=10
    )


def trust(pki: Path, certificate: str = "client") -> ssl.SSLContext:
    """What a client brings along; ``certificate``: "" for none."""
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    if certificate:
        context.load_cert_chain(pki / f"{certificate}.pem", pki / f"{certificate}.key")
    return context


def test_browsers_are_told_to_insist_on_tls(gateway: GatewayProcess, pki: Path) -> None:
    """S35: it was never said; a name is shared by all ports of a machine, so only where it is configured."""
    with client(gateway, pki) as asking:
        for path in ("/-/healthz", "/-/nothing"):
            assert asking.get(path).headers["strict-transport-security"] == "max-age=86400"
        assert "strict-transport-security" not in asking.get("/good").headers


def test_both_sides_speak_tls(gateway: GatewayProcess, pki: Path) -> None:
    with client(gateway, pki) as asking:
        for _ in range(3):
            answer = asking.get("/good")
            assert (answer.status_code, answer.text) == (200, "https")
            assert answer.headers["x-variant"] == "v1"
        assert asking.get("/careless").status_code == 200


@pytest.mark.parametrize("path", ["/stranger", "/misnamed"])
def test_a_backend_that_cannot_be_verified_is_not_spoken_to(
    gateway: GatewayProcess, pki: Path, path: str
) -> None:
    with client(gateway, pki) as asking:
        answer = asking.get(path)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "backend_tls"


def test_a_backend_that_wants_our_certificate_and_gets_none(gateway: GatewayProcess, pki: Path) -> None:
    with client(gateway, pki) as asking:
        answer = asking.get("/anonymous")
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] in ("backend_tls", "backend_reset")


@pytest.mark.parametrize("certificate", ["", "stranger"], ids=["none", "of another authority"])
def test_a_client_without_a_good_certificate_is_not_let_in(
    gateway: GatewayProcess, pki: Path, certificate: str
) -> None:
    with client(gateway, pki, certificate=certificate) as asking, pytest.raises(httpx.TransportError):
        asking.get("/good")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["h3"], None)],
)
def test_what_is_agreed_on(
    gateway: GatewayProcess, pki: Path, offered: list[str], chosen: str | None
) -> None:
    context = trust(pki)
    context.set_alpn_protocols(offered)
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        assert secured.selected_alpn_protocol() == chosen


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["nothing", "half"]
)
def test_a_handshake_has_no_more_time_than_a_head(gateway: GatewayProcess, sent: bytes) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", gateway.port), 30) as plain:
        plain.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(100) == b""
    assert 1.5 < time.monotonic() - began < 20


def test_plain_text_on_the_tls_port_is_not_answered(gateway: GatewayProcess) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{gateway.port}/good")


RENEWED = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 100ms}
tls: {cert: "@DIR@/server.pem", key: "@DIR@/server.key", client_ca: "@DIR@/ca.pem", client_auth: optional}
routes: {}
"""


def shown(port: int, server_hostname: str | None, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection sees."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=server_hostname) as secure,
    ):
        secure.sendall(b"GET /-/readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert secure.recv(12) == b"HTTP/1.1 200"
        found = secure.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found).serial_number


def test_clients_need_certificates_from_the_edit_that_requires_them_on(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    issuer.issue("server")
    issuer.issue("client")
    with GatewayProcess(tmp_path, RENEWED, ready=False) as gateway:
        wait_for(lambda: " ready" in gateway.log)
        without, with_one = trust(tmp_path, ""), trust(tmp_path, "client")

        def admitted(context: ssl.SSLContext) -> bool:
            try:
                shown(gateway.port, "localhost", context)
            except (ssl.SSLError, ConnectionError, AssertionError):
                return False
            return True

        assert admitted(without)
        gateway.write(RENEWED.replace("optional", "required"))
        wait_for(lambda: "revision 2 is in force" in gateway.log)
        assert not admitted(without)
        assert admitted(with_one)
        gateway.write("\n".join(line for line in RENEWED.splitlines() if not line.startswith("tls:")))
        wait_for(lambda: "revision 3 is in force" in gateway.log)
        wait_for(lambda: "has another 'tls' than this process" in gateway.log)
        assert not admitted(without)


def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    issuer.issue("server")
    other = Issuer(tmp_path, "other")
    other.issue("client")

    def serial() -> int:
        return x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes()).serial_number

    unsure = ssl.create_default_context()
    unsure.check_hostname, unsure.verify_mode = False, ssl.CERT_NONE
    with GatewayProcess(tmp_path, RENEWED, ready=False) as gateway:
        wait_for(lambda: " ready" in gateway.log)
        context = trust(tmp_path, "")
        first = serial()
        assert shown(gateway.port, "localhost", context) == first
        with client(gateway, tmp_path, certificate="") as kept:
            assert kept.get("/-/readyz").status_code == 200
            other.issue(
                "server"
            )  # first a key that is not the certificate's: it is refused, and the old one stays
            (tmp_path / "server.key").write_bytes((tmp_path / "client.key").read_bytes())
            wait_for(lambda: "tls.cert: " in gateway.log)
            assert shown(gateway.port, "localhost", context) == first
            issuer.issue("server")
            renewed = serial()
            assert renewed != first
            wait_for(lambda: shown(gateway.port, "localhost", context) == renewed)
            assert shown(gateway.port, None, unsure) == renewed  # of a client that names no host
            assert kept.get("/-/readyz").status_code == 200
        # Another authority for clients.
        strangers = trust(tmp_path, "client")
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            shown(gateway.port, "localhost", strangers)
        (tmp_path / "ca.pem").write_bytes((tmp_path / "other.pem").read_bytes())

        def welcome() -> bool:
            try:
                return shown(gateway.port, "localhost", strangers) == renewed
            except (ssl.SSLError, ConnectionError, AssertionError):
                return False

        wait_for(welcome)
