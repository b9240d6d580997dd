"""What a client is told of a body that does not fit."""

from __future__ import annotations

import pytest

from gateway.control.api_request import checked
from gateway.control.schemas.decide import MAX_FEATURES, DecideRequest
from gateway.control.schemas.feedback import FeedbackTokenRequest
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


@pytest.mark.parametrize(
    "body",
    [
        {f"k{number}": 1 for number in range(2000)},
        {"route": "r", "features": {f"k{number}": [1] for number in range(2000)}},
        {"route": [[1] * 600, {"a": [1] * 600}]},
        {"route": ["a"] * 600 + [1] * 2000},
    ],
)
def test_more_values_than_any_call_takes_are_one_fault(body: object) -> None:
    """pydantic makes several of each, on the event loop: of 150,000 fields for a second."""
    with pytest.raises(TurnoutError, match=r"^That is more than 1024 values; send only what is asked for\.$"):
        checked(DecideRequest, body)


def test_as_many_features_as_can_be_declared_are_taken() -> None:
    features = {f"k{number}": number for number in range(MAX_FEATURES)}
    assert checked(DecideRequest, {"route": "r", "unit": "u", "features": features}).features == features


def test_a_token_may_name_any_number_of_routes() -> None:
    routes = [f"r{number}" for number in range(3000)]
    assert checked(FeedbackTokenRequest, {"routes": routes}).routes == routes
