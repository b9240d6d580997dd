"""What a client is told of a body that does not fit."""

from __future__ import annotations

import pytest

from gateway.control.api_request import checked
from gateway.control.schemas.decide import DecideRequest
from gateway.errors import TurnoutError


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"route": "r", "unit": 1.5}, "'unit': write a string or an integer."),
        (
            {"route": "r", "features": {"str": [1]}, "colour": 1},
            (
                "'colour' is not known here; expected one of route, unit, features; "
                "'features.str': write a string, an integer, a number or a boolean."
            ),
        ),
        ({"route": 1}, "'route': input should be a valid string."),
    ],
)
def test_a_field_of_several_types_is_one_fault(body: object, told: str) -> None:
    with pytest.raises(TurnoutError) as refused:
        checked(DecideRequest, body)
    assert str(refused.value) == told
