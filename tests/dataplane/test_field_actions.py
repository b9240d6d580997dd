"""What the gateway does with a field, whatever its spelling."""

from __future__ import annotations

import pytest

from gateway.http.fields import (
    MAX_REMEMBERED_NAME_BYTES,
    MAX_REMEMBERED_NAMES,
    PASS,
    REQUEST_ACTIONS,
    Actions,
    valid_request_id,
)


def look_up(actions: Actions, name: bytes) -> int:
    """As the readers of heads do."""
    try:
        return actions.known[name]
    except KeyError:
        return actions.find(name)


def test_every_spelling_of_a_name_has_its_action() -> None:
    actions = Actions(REQUEST_ACTIONS)
    for name, action in REQUEST_ACTIONS.items():
        for spelling in (name, name.upper(), name.title(), name.swapcase(), name):
            assert look_up(actions, spelling) == action
    assert {look_up(actions, name) for name in (b"accept", b"Accept", b"x-hosts")} == {PASS}


def test_names_of_one_client_are_remembered_up_to_a_limit() -> None:
    actions = Actions(REQUEST_ACTIONS)
    for number in range(3 * MAX_REMEMBERED_NAMES):
        assert look_up(actions, b"x-%d" % number) == PASS
        assert look_up(actions, b"Content-Length") == REQUEST_ACTIONS[b"content-length"]
        assert len(actions.known) <= MAX_REMEMBERED_NAMES
    remembered = len(actions.known)
    assert look_up(actions, b"x" * (MAX_REMEMBERED_NAME_BYTES + 1)) == PASS
    assert len(actions.known) == remembered


@pytest.mark.parametrize("byte", range(256))
def test_a_request_id_has_visible_characters_of_ascii_alone(byte: int) -> None:
    assert valid_request_id(b"a%cb" % byte) == (0x20 < byte < 0x7F)


def test_a_request_id_has_1_to_200_bytes() -> None:
    assert [valid_request_id(b"a" * size) for size in (0, 1, 200, 201)] == [False, True, True, False]
