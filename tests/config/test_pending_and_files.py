"""Options that aren't in force yet are named; files that can't be used are found, by real certificates."""

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
from gateway.config.files import missing_files, unusable_files
from gateway.config.load import examine, load
from gateway.config.references import Finding

TEXT = """\
backends:
  a:
    url: http://x:1
    OPTION
routes:
  r: {match: {}, variants: {v: {backend: a}}, policy: {type: single, variant: v}}
"""


def warned(option: str) -> list[tuple[int, str]]:
    found = examine(TEXT.replace("OPTION", option), env={})
    assert found.document is not None, found.faults
    return [
        (warning.line, warning.path) for warning in found.warnings if "does not act on" in warning.message
    ]


def test_an_option_that_is_not_in_force_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.config.pending.PENDING", frozenset({"backends.NAME.slow_start"}))
    assert warned("slow_start: 5s") == [(4, "backends.a.slow_start")]
    assert warned("slow_start: 0s") == []  # the default asks for nothing
    assert warned("headers: {a: b}") == []


def test_pending_options_inside_lists_and_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gateway.config.pending.PENDING", frozenset({"routes.NAME.policy.stages[].min_samples"})
    )
    text = TEXT.replace("OPTION", "").replace("v: {backend: a}", "v: {backend: a}, w: {backend: a}")
    stages = "[{weight: 1%, for: 1s}, {weight: 2%, min_samples: 3}]"
    canary = f"type: canary, baseline: v, candidate: w, stages: {stages}"
    found = examine(text.replace("type: single, variant: v", canary), env={})
    said = [warning.path for warning in found.warnings if "does not act on" in warning.message]
    assert said == ["routes.r.policy.stages[1].min_samples"]


def test_the_example_uses_only_what_is_in_force() -> None:
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
