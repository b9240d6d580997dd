"""Names of hosts that are accepted, in the form in which they are sent or matched."""

from __future__ import annotations

import pytest

from gateway.config.backend import BackendConfig
from gateway.config.route import MatchConfig


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://my_model:8000", "my_model:8000"),
        ("http://_model-:8000", "_model-:8000"),
        ("http://models.internal.", "models.internal."),
        ("HTTP://Models.Internal:80", "models.internal"),
        ("http://bücher.example", "xn--bcher-kva.example"),
        ("https://[::FFFF:127.0.0.1]", "[::ffff:127.0.0.1]"),
        ("http://[fe80::1%eth0]:8000", "[fe80::1%eth0]:8000"),
    ],
)
def test_hosts_of_backends(url: str, authority: str) -> None:
    (found,) = BackendConfig(url=url).addresses
    assert found.authority == authority


@pytest.mark.parametrize(
    ("host", "matched"),
    [
        ("models.internal", "models.internal"),
        ("*.Example.com", "*.Example.com"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("a_b.", "a_b."),
        ("[::1]", "[::1]"),
    ],
)
def test_hosts_that_a_route_matches(host: str, matched: str) -> None:
    assert MatchConfig(host=(host,)).host == (matched,)
