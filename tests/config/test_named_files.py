"""Files that can't be used are found, by real certificates."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config.document import Document
from gateway.config.faults import render_path
from gateway.config.files import missing_files, named_files, unusable_files
from gateway.config.load import examine, load
from gateway.config.references import Finding
from gateway.config.watch import signatures


def test_the_example_is_loaded_without_a_warning() -> None:
    text = (Path(__file__).parents[2] / "config.example.yaml").read_text()
    assert examine(text, env={}).warnings == ()


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """cert.pem and key.pem that belong together, other.pem a key that doesn't."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    for file, private in (("key.pem", key), ("other.pem", ec.generate_private_key(ec.SECP256R1()))):
        (tmp_path / file).write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    (tmp_path / "text.pem").write_text("no certificate")
    return tmp_path


def unusable(document: Document) -> dict[str, str]:
    return by_path(unusable_files(document))


def missing(document: Document) -> dict[str, str]:
    return by_path(missing_files(document))


def by_path(findings: Iterable[Finding]) -> dict[str, str]:
    return {render_path(found.path): found.message for found in findings}


def with_tls(pems: Path, tls: str) -> Document:
    text = f"tls: {tls}\nbackends: {{a: {{url: 'https://x', tls: {tls.replace('client_ca', 'ca')}}}}}\n"
    for name in ("cert", "key", "other", "text", "none"):
        text = text.replace(f" {name}.pem", f" {pems}/{name}.pem")
    return load(text, source="x", env={})


def test_good_files(pems: Path) -> None:
    document = with_tls(pems, "{cert: cert.pem, key: key.pem}")
    assert unusable(document) == missing(document) == {}


def test_missing_files(pems: Path) -> None:
    document = with_tls(pems, "{cert: none.pem, key: key.pem}")
    assert unusable(document) == {}
    assert missing(document) == dict.fromkeys(
        ("tls.cert", "backends.a.tls.cert"),
        f"there is no file '{pems}/none.pem' here; the gateway needs it to start",
    )


def test_a_path_that_no_file_can_have(pems: Path) -> None:
    document = with_tls(pems, '{cert: "a\\0b", key: key.pem}')
    assert unusable(document) == {}
    assert set(missing(document)) == {"tls.cert", "backends.a.tls.cert"}
    assert signatures(named_files(document))["a\0b"] is None


@pytest.mark.parametrize("pair", ["{cert: cert.pem, key: other.pem}", "{cert: text.pem, key: key.pem}"])
def test_files_that_do_not_fit(pair: str, pems: Path) -> None:
    found = unusable(with_tls(pems, pair))
    assert set(found) == {"tls.cert", "backends.a.tls.cert"}
    assert all("are not a certificate and its key" in message for message in found.values())


def test_authorities(pems: Path) -> None:
    text = f"backends: {{a: {{url: 'https://x', tls: {{ca: '{pems}/CA'}}}}}}"
    assert unusable(load(text.replace("CA", "cert.pem"), source="x", env={})) == {}
    assert set(unusable(load(text.replace("CA", "text.pem"), source="x", env={}))) == {"backends.a.tls.ca"}
    text = f"engines: {{k: {{type: kubernetes, token: a-token-of-the-cluster, ca: '{pems}/CA'}}}}"
    assert unusable(load(text.replace("CA", "cert.pem"), source="x", env={})) == {}
    assert set(unusable(load(text.replace("CA", "text.pem"), source="x", env={}))) == {"engines.k.ca"}


def test_public_keys_of_a_provider(pems: Path) -> None:
    text = "auth: {jwt: {issuer: i, audience: a, jwks: 'WHERE'}}"
    assert missing(load(text.replace("WHERE", "https://x/jwks"), source="x", env={})) == {}
    assert missing(load(text.replace("WHERE", str(pems / "key.pem")), source="x", env={})) == {}
    assert set(missing(load(text.replace("WHERE", "nowhere"), source="x", env={}))) == {"auth.jwt.jwks"}
