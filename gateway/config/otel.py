"""The ``OTEL_*`` environment variables that complete `telemetry.traces`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from pydantic import ValidationError

from gateway.config.references import Finding
from gateway.config.service import TracesConfig

_SAMPLERS: Final[Mapping[str, tuple[str, float | None]]] = {
    "always_on": ("link", 1.0),
    "always_off": ("link", 0.0),
    "traceidratio": ("link", None),
    "parentbased_always_on": ("follow", 1.0),
    "parentbased_always_off": ("follow", 0.0),
    "parentbased_traceidratio": ("follow", None),
}
"""Name of a sampler → `parent` and `sample`; None: the ratio of OTEL_TRACES_SAMPLER_ARG."""


_PROTOCOL: Final = "http/protobuf"


def protocol_warnings(section: TracesConfig | None, env: Mapping[str, str]) -> Iterator[Finding]:
    """A warning if ``env`` names a collector and a protocol that the gateway does not speak."""
    options = {} if section is not None or _disabled(env) else _exporter(env)
    if "endpoint" in options and options.get("protocol", _PROTOCOL) != _PROTOCOL:
        message = (
            f"the protocol of the OTEL_* variables is {options['protocol']!r}, but traces are sent as {_PROTOCOL}; "
            f"write OTEL_EXPORTER_OTLP_PROTOCOL={_PROTOCOL} and an endpoint that takes it, by default on port 4318"
        )
        yield Finding(("telemetry", "traces"), message)


def with_environment(section: TracesConfig | None, env: Mapping[str, str]) -> TracesConfig | None:
    """Return ``section`` with the options that it leaves out taken from ``env``.

    Without a section, the variables for the endpoint switch tracing on. Raises ValueError for a variable that can't be
    used.
    """
    if _disabled(env):
        return section
    options = dict(_options(env))
    if section is None:
        return _checked(options) if "endpoint" in options else None
    written = {name: getattr(section, name) for name in section.model_fields_set}
    missing = {name: value for name, value in options.items() if name not in written}
    return section.model_copy(update=_used(missing)) if missing else section


def _disabled(env: Mapping[str, str]) -> bool:
    return env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _exporter(env: Mapping[str, str]) -> dict[str, str]:
    """Variables of the exporter by name, if set: the specific one of traces, else the general one."""
    found = {
        name: env.get(f"OTEL_EXPORTER_OTLP_TRACES_{name.upper()}")
        or env.get(f"OTEL_EXPORTER_OTLP_{name.upper()}")
        for name in ("endpoint", "headers", "protocol")
    }
    return {name: value for name, value in found.items() if value}


def _options(env: Mapping[str, str]) -> Mapping[str, Any]:
    exporter = _exporter(env)
    options: dict[str, Any] = {}
    if endpoint := exporter.get("endpoint"):
        specific = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        options["endpoint"] = specific or f"{endpoint.rstrip('/')}/v1/traces"
    if headers := exporter.get("headers"):
        options["headers"] = _pairs(headers)
    if service := env.get("OTEL_SERVICE_NAME"):
        options["service"] = service
    if sampler := env.get("OTEL_TRACES_SAMPLER"):
        options["parent"], options["sample"] = _sampler(sampler, env.get("OTEL_TRACES_SAMPLER_ARG", ""))
    return options


def _pairs(text: str) -> dict[str, str]:
    """``key=value,key=value``, values percent-encoded."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(equals and key.strip() for key, equals, _ in pairs):
        raise ValueError("OTEL_EXPORTER_OTLP_HEADERS is not a list; write NAME=VALUE,NAME=VALUE")
    return {key.strip().lower(): unquote(value.strip()) for key, _, value in pairs}


def _sampler(name: str, argument: str) -> tuple[str, float]:
    if name not in _SAMPLERS:
        raise ValueError(f"OTEL_TRACES_SAMPLER is unknown; expected one of {', '.join(_SAMPLERS)}")
    parent, share = _SAMPLERS[name]
    try:
        ratio = float(argument or 1.0) if share is None else share
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise ValueError("OTEL_TRACES_SAMPLER_ARG is not a number between 0 and 1; write one such as 0.01")
    return parent, ratio


def _checked(options: Mapping[str, Any]) -> TracesConfig:
    try:
        return TracesConfig.model_validate(options)
    except ValidationError as error:
        names = ", ".join(sorted({str(fault["loc"][0]) for fault in error.errors()}))
        raise ValueError(f"the OTEL_* variables are not valid for: {names}") from None


def _used(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as the values of a section."""
    checked = _checked({"endpoint": "http://unused", **options})
    return {name: getattr(checked, name) for name in options}
