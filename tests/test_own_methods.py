"""Classes get copies of what they inherit, which do the same."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import build
from gateway.dataplane.client.http2.stream import RequestStream
from gateway.runtime.own_methods import own_methods
from gateway.server import compose
from gateway.transport.http2_session import BackendStream


class Far:
    def value(self) -> str:
        return "far"

    def shown(self, before: str = "<", *, after: str = ">") -> str:
        return before + self.value() + after

    @property
    def length(self) -> int:
        return len(self.shown())


class Near(Far):
    def value(self) -> str:
        return "near " + super().value()


class Own(Near):
    def shown(self, before: str = "", *, after: str = "") -> str:
        return super().shown(before or "[", after=after or "]")


def test_copies_do_what_the_originals_do() -> None:
    plain = [Own().shown(), Own().length, Near().shown("(", after=")")]
    own_methods(Own)
    own_methods(Near)
    own_methods(Near)
    assert [Own().shown(), Own().length, Near().shown("(", after=")")] == plain
    assert Far().shown() == "<far>"
    assert Near.shown.__code__ is not Far.shown.__code__
    assert vars(Near).keys() >= {"value", "shown", "length"}


@pytest.mark.skipif(build.form() == "compiled", reason="compiled methods have no inline caches")
def test_streams_of_clients_and_backends_share_no_code() -> None:
    assert compose is not None
    methods: list[Any] = [vars(cls)["advance"] for cls in (RequestStream, BackendStream)]
    assert methods[0].__code__ is not methods[1].__code__
    assert methods[0].__code__.co_code == methods[1].__code__.co_code
