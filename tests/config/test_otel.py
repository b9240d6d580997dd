"""OTEL_* variables: what they mean, and what takes precedence."""

from __future__ import annotations

import pytest

from gateway.config.otel import with_environment
from gateway.config.service import TracesConfig

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}


def test_an_endpoint_turns_tracing_on() -> None:
    assert with_environment(None, {"OTEL_SERVICE_NAME": "edge"}) is None
    made = with_environment(None, ENDPOINT)
    assert made is not None
    assert (made.address, made.sample, made.parent) == ("http://collector:4318/v1/traces", 0.01, "follow")
    assert with_environment(None, ENDPOINT | {"OTEL_SDK_DISABLED": "true"}) is None
    specific = with_environment(None, ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other/x"})
    assert specific is not None
    assert specific.address == "http://other/x"


def test_the_configuration_takes_precedence() -> None:
    section = TracesConfig.model_validate({"endpoint": "http://own:4318", "service": "own"})
    env = ENDPOINT | {
        "OTEL_SERVICE_NAME": "edge",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x, b=2",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    made = with_environment(section, env)
    assert made is not None
    assert (made.address, made.service) == ("http://own:4318/v1/traces", "own")
    assert made.headers == {"authorization": "Bearer x", "b": "2"}
    assert (made.parent, made.sample) == ("follow", 0.25)
    assert with_environment(section, {}) is section


@pytest.mark.parametrize(
    ("name", "parent", "share"),
    [("always_on", "link", 1.0), ("always_off", "link", 0.0), ("parentbased_always_on", "follow", 1.0),
     ("traceidratio", "link", 1.0)],
)  # fmt: skip
def test_samplers(name: str, parent: str, share: float) -> None:
    made = with_environment(None, ENDPOINT | {"OTEL_TRACES_SAMPLER": name})
    assert made is not None
    assert (made.parent, made.sample) == (parent, share)


@pytest.mark.parametrize(
    ("variables", "says"),
    [({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "expected one of always_on"),
     ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"}, "between 0 and 1"),
     ({"OTEL_EXPORTER_OTLP_HEADERS": "nonsense"}, "NAME=VALUE"),
     ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "not valid for: endpoint")],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(variables: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        with_environment(None, ENDPOINT | variables)


def test_an_endpoint_in_capitals_is_verified_too() -> None:
    """Whether the connection is verified follows from the address, which the HTTP client reads in either case."""
    assert TracesConfig(endpoint="HTTPS://collector").address == "https://collector/v1/traces"
