"""TLS to clients and to backends: the same bytes, and an end without a close_notify is a cut."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.backend import CLOSE, EARLY, HOLD, RESET, Flood, ok
from tests.support.client import Cut
from tests.wire.rig import SOON, Rig, Tls

H = b"host: gateway.test\r\n"


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    folder: Path, subject: str, issuer: str, signer: ec.EllipticCurvePrivateKey | None
) -> ec.EllipticCurvePrivateKey:
    """Writes SUBJECT.pem (key and certificate); without ``signer`` it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(signer or key, hashes.SHA256())
    )
    (folder / f"{subject}.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return key


def contexts(folder: Path) -> Tls:
    authority = certificate(folder, "ca", "ca", None)
    certificate(folder, "server", "ca", authority)
    found = []
    for _ in range(2):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        context.set_alpn_protocols(["http/1.1"])
        found.append(context)
    client = ssl.create_default_context(cafile=folder / "ca.pem")
    client.set_alpn_protocols(["h2", "http/1.1"])
    return Tls(found[0], found[1], client)


RIG = {
    "tls": contexts,
    "routes": """\
  secure:
    match: {path: /secure}
    variants: {v1: {backend: secure}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
    body_limit: 1GiB
  distrusted:
    match: {path: /distrusted}
    variants: {v1: {backend: distrusted}}
    policy: {type: single, variant: v1}
    retry: {attempts: 1}
""",
    "backends": """\
  secure: {url: "https://127.0.0.1:PORT", ejection: null, tls: {ca: FOLDER/ca.pem}}
  distrusted: {url: "https://127.0.0.1:PORT", ejection: null}
""",
}


def get(target: bytes = b"/p/x", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET %b %b\r\n%b\r\n" % (target, version, H)


# Clients ------------------------------------------------------------------------------------------------
def test_a_client_over_tls(rig: Rig) -> None:
    with rig.secure_client() as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"  # type: ignore[attr-defined]
        for n in range(3):
            client.send(get(b"/p/%d" % n))
            assert client.answer().body == b"A|GET|/p/%d|0" % n
    assert rig.requests[0].all("x-forwarded-proto") == [b"https"]
    assert rig.requests[0].all("forwarded") == [b'for=127.0.0.1;proto=https;host="gateway.test"']


def test_plain_http_on_a_tls_port_is_no_request(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get())
        assert client.at_end()
    assert rig.requests == []


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_cut_answer_has_no_close_notify(rig: Rig, version: bytes, end: str) -> None:
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", 0.01, end])
    with rig.secure_client() as client:
        client.send(get(version=version))
        with pytest.raises(Cut):
            client.answer()


def test_an_early_answer_is_not_eaten_by_the_end(rig: Rig) -> None:
    with rig.secure_client() as client:
        client.send(b"POST /none HTTP/1.1\r\n%bcontent-length: 50000000\r\n\r\n" % H)
        client.send(*[b"x" * 16_384] * 20)
        answer = client.answer()
        assert answer.status == 404
    rig.until(lambda: not rig.connections)


def test_a_bad_request_over_tls(rig: Rig) -> None:
    with rig.secure_client() as client:
        client.send(b"NONSENSE\r\n\r\n")
        assert client.answer().status == 400
        assert client.at_end()


def test_a_client_that_leaves_over_tls(rig: Rig) -> None:
    rig.a.plans.append([HOLD])
    with rig.secure_client() as client:
        client.send(get(b"/large/x"))
        rig.until(lambda: rig.requests)
    rig.until(lambda: not rig.a.connections[0].open, SOON)


def test_a_large_answer_over_tls_to_a_slow_reader(rig: Rig) -> None:
    size = 4 << 20
    rig.a.plans.append([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, Flood(size)])
    with rig.secure_client() as client:
        client.send(get())
        time.sleep(0.3)
        (connection,) = rig.connections
        assert rig.call(connection.transport.get_write_buffer_size) < 1 << 20
        body = client.answer().body
    assert len(body) == size
    assert all(body[place] == place // 65536 % 251 for place in range(0, size, 65536))


# Backends -----------------------------------------------------------------------------------------------
def test_a_backend_over_tls(rig: Rig) -> None:
    with rig.secure_client() as client:
        for n in range(3):
            client.send(get(b"/secure/%d" % n))
            assert client.answer().body == b"B|GET|/secure/%d|0" % n
    assert {request.connection for request in rig.b.requests} == {0}


def test_a_backend_whose_certificate_is_not_trusted(rig: Rig) -> None:
    with rig.secure_client() as client:
        client.send(get(b"/distrusted"))
        answer = client.answer()
        assert (answer.status, answer.code) == (502, "backend_tls")
    assert rig.b.requests == []


def test_an_answer_until_close_ends_with_a_close_notify(rig: Rig) -> None:
    rig.b.plans.append([b"HTTP/1.1 200 OK\r\n\r\nabc", 0.01, CLOSE])
    with rig.secure_client() as client:
        client.send(get(b"/secure/x"))
        assert client.answer().body == b"abc"


def test_an_answer_until_close_without_a_close_notify_is_cut(rig: Rig) -> None:
    """Anybody on the way can end a TCP connection: only a close_notify says that the answer is whole."""
    rig.b.plans.append([b"HTTP/1.1 200 OK\r\n\r\nabc", HOLD])
    with rig.secure_client() as client:
        client.send(get(b"/secure/x"))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        rig.call(drop, rig.b.connections[0].transport)
        with pytest.raises(Cut):
            client.until(b"0\r\n\r\n")


def drop(transport: object) -> None:
    """Ends the TCP connection below TLS, with a FIN."""
    found = transport.get_extra_info("socket")  # type: ignore[attr-defined]
    duplicate = socket.socket(fileno=os.dup(found.fileno()))
    duplicate.shutdown(socket.SHUT_WR)
    duplicate.close()


def test_an_early_answer_of_a_backend_over_tls(rig: Rig) -> None:
    rig.b.plans.append([EARLY, ok(b"early")])
    with rig.secure_client() as client:
        client.send(b"POST /secure/x HTTP/1.1\r\n%bcontent-length: 1000\r\n\r\nabc" % H)
        assert client.answer().body == b"early"
    rig.until(lambda: not any(c.open for c in rig.b.connections))
