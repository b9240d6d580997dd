"""The check is the build: what loads can be built, and a build that fails changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.compile import prepare as build
from gateway.compile.prepare import prepare, standalone
from gateway.compile.snapshot import route_plan
from gateway.config.faults import ConfigError
from gateway.config.load import examine
from tests.config.test_config_properties import ODD, WHOLE, WORDS, as_yaml

TREE = yaml.safe_load(WHOLE)
TEXTS = st.text(max_size=12) | st.text(st.characters(max_codepoint=0x2FF), max_size=6)
SCALARS = (
    TEXTS
    | st.integers(-2, 10**13)
    | st.floats()
    | st.booleans()
    | st.none()
    | st.sampled_from([*WORDS, *ODD, "1e300", "5 €", "x\r\ny: z", "*.example", "ü", "a" * 300])
)


def places(value: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every scalar of a tree."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*here, key))
    else:
        yield here


PLACES = sorted(places(TREE), key=str)


def changed(data: st.DataObject) -> str:
    """The file that says every option, with some values replaced, and some keys gone."""
    tree = deepcopy(TREE)
    for path in data.draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4)):
        inside = tree
        try:
            for key in path[:-1]:
                inside = inside[key]
            if data.draw(st.integers(0, 3)):
                inside[path[-1]] = data.draw(SCALARS)
            else:
                del inside[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
    return as_yaml(tree)


@pytest.mark.long
@settings(max_examples=100)
@given(st.data())
def test_every_document_that_loads_can_be_prepared(data: st.DataObject) -> None:
    found = examine(changed(data), env={})
    if found.document is None:
        return
    loop = asyncio.new_event_loop()
    try:
        prepared = prepare(found, standalone(loop), source="x")
    finally:
        loop.close()
    assert set(prepared.snapshot.routes) == set(found.document.routes) == set(prepared.held)


def refused(text: str) -> ConfigError:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(ConfigError) as caught:
            prepare(examine(text, env={}), standalone(loop), source="x")
    finally:
        loop.close()
    return caught.value


ROUTE = """\
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
  one: {match: {path: /one}, variants: {v: {backend: a}}, policy: {type: single, variant: v}}
  two: {match: {path: /two}, variants: {v: {backend: a}}, policy: {type: single, variant: v}}
"""


IN_MATCH = """\
backends: {a: {url: 'http://x'}}
routes: {r: {match: {headers: {x-a: '–'}}, variants: {v: {backend: a}}, policy: {type: single, variant: v}}}
"""
ELSEWHERE = """\
backends: {a: {url: 'http://x', headers: {x-a: '5 €'}}}
routes:
  r:
    match: {}
    variants: {v: {backend: a, headers: {x-b: '€'}}}
    policy: {type: single, variant: v}
    fallback: [{respond: {headers: {x-a: 'ł'}}}]
"""


@pytest.mark.parametrize(("where", "faults"), [(IN_MATCH, 1), (ELSEWHERE, 3)])
def test_a_header_value_beyond_latin_1_is_refused_with_its_place(where: str, faults: int) -> None:
    found = refused(where).faults
    assert len(found) == faults
    assert all(fault.line and "headers" in fault.path for fault in found)
    assert all("ISO 8859-1" in fault.message for fault in found)


def test_whatever_goes_wrong_is_a_fault_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    real = route_plan

    def broken(name: str, *rest: Any) -> Any:
        if name == "two":
            raise KeyError("a mistake of ours")
        return real(name, *rest)

    monkeypatch.setattr(build, "route_plan", broken)
    (fault,) = refused(ROUTE).faults
    assert (fault.line, fault.path) == (4, "routes.two")
    assert "a mistake of ours" in fault.message


@pytest.mark.parametrize(("network", "other"), [("10.0.0.0/8", "::1"), ("::ffff:10.0.0.0/104", "11.0.0.9")])
def test_a_trusted_proxy_is_known_on_a_socket_for_both_kinds_of_addresses(network: str, other: str) -> None:
    loop = asyncio.new_event_loop()
    try:
        text = f'trusted_proxies: ["{network}"]\nroutes: {{}}\n'
        trusted = prepare(examine(text, env={}), standalone(loop), source="x").snapshot.trusted
    finally:
        loop.close()
    assert trusted("::ffff:10.0.0.9")
    assert not any(map(trusted, ("::ffff:11.0.0.9", "::10.0.0.9", other, "")))
