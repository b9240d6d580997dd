"""Durations, shares, rates and sizes as people write them, and as the program uses them.

Each parser takes what YAML gives (text or a number) and returns a plain number: seconds, a share of
one, a rate per second, bytes. What it can't read it refuses with ValueError, whose message says what
to write instead. `render_*` is the inverse: it writes what reads back as exactly the same number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S: Final = 1_000_000 * 86_400.0
"""A time so far ahead is still a date, and fits into 64 bits as microseconds."""
_BYTES: Final = {
    "B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3,
}  # fmt: skip
_DURATION: Final = re.compile(rf"{_NUMBER}\s*(us|ms|s|m|h|d)", re.ASCII)
_SEVERAL: Final = re.compile(rf"(?:{_DURATION.pattern}\s*)+", re.ASCII)
"""A duration in several units, such as ``1h30m``."""
_SPELT: Final = re.compile(
    rf"{_NUMBER}\s*(s(?=ec)|m(?=in)|h(?=ou|r)|d(?=ay))[a-z]*", re.ASCII | re.IGNORECASE
)
"""A duration whose unit is a word."""
_PERCENT: Final = re.compile(rf"{_NUMBER}\s*%", re.ASCII)
_PLAIN: Final = re.compile(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
_RATE: Final = re.compile(rf"{_NUMBER}\s*/\s*(s|m|h|d)", re.ASCII)
_SIZE: Final = re.compile(rf"{_NUMBER}\s*(B|kB|MB|GB|KiB|MiB|GiB)?", re.ASCII)


def _finite(number: float, value: object, what: str) -> float:
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is too large for {what}; write less")
    return number


def _number(value: object) -> float | None:
    """A number that is not negative, given as such or as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float) and value >= 0:
        return float(value) if not isinstance(value, int) or value < 2**1000 else math.inf
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return float(value)
    return None


def duration(value: object) -> float:
    """Seconds, from text such as ``250ms``; 0 needs no unit.

    Raises:
        ValueError: The text is malformed, or has no unit.
    """
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found[1]) * _SECONDS[found[2]]
        if seconds > _LONGEST_S:
            raise ValueError(f"{value!r} is too long; write at most {_LONGEST_S / 86400:.0f}d")
        return seconds
    if (number := _number(value)) == 0:
        return number
    hint = f"; write {value}s if seconds are meant" if number is not None else ""
    if isinstance(value, str) and (found := _SPELT.fullmatch(value.strip())):
        hint = f"; write {found[1]}{found[2].lower()}"
    elif isinstance(value, str) and _SEVERAL.fullmatch(value.strip()):
        *_, (_, unit) = parts = _DURATION.findall(value)
        hint = f"; write {sum(float(n) * _SECONDS[u] for n, u in parts) / _SECONDS[unit]:.12g}{unit}"
    raise ValueError(f"{value!r} is not a duration such as 250ms, 2s, 10m, 1h or 7d{hint}")


def milliseconds(value: object) -> object:
    """A duration as a number of milliseconds; what isn't one is given back."""
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        return float(found[1]) * _SECONDS[found[2]] / _SECONDS["ms"]
    return value


def whole(value: object) -> object:
    """Refuses true and false, which Python takes for 1 and 0.

    Raises:
        ValueError: The value is true or false.
    """
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number; write one")
    return value


def share(value: object) -> float:
    """A share of one, from ``5%`` or ``0.05``.

    Raises:
        ValueError: The value is malformed, or above 1.
    """
    if isinstance(value, str) and (found := _PERCENT.fullmatch(value.strip())):
        number: float | None = _finite(float(found[1]) / 100, value, "a share")
    else:
        number = _number(value)
    if number is None or math.isnan(number):
        raise ValueError(f"{value!r} is not a share; write it as 5% or 0.05")
    if number > 1:
        hint = f"write {number:g}%" if number <= 100 and "%" not in str(value) else "write 100% or less"
        raise ValueError(f"{value!r} is more than the whole; {hint}")
    return number


def amount(value: object) -> float:
    """A number that is not negative: ``3``, ``0.5``, ``0.5%`` (0.005).

    Raises:
        ValueError: The value is malformed.
    """
    if isinstance(value, str) and (found := _PERCENT.fullmatch(value.strip())):
        return _finite(float(found[1]) / 100, value, "an amount")
    number = _number(value)
    if number is None or math.isnan(number):
        raise ValueError(f"{value!r} is not an amount; write a number that is not negative, or a percentage")
    return _finite(number, value, "an amount")


def rate(value: object) -> float:
    """Events a second, from ``200/s``, ``60/m``, ``1000/h`` or ``5000/d``.

    Raises:
        ValueError: The value is malformed, or 0.
    """
    if isinstance(value, str) and (found := _RATE.fullmatch(value.strip())):
        number = _finite(float(found[1]) / _SECONDS[found[2]], value, "a rate")
        if number > 0:
            return number
        raise ValueError("a rate of nothing lets no request pass; write a rate above 0, or leave it out")
    raise ValueError(f"{value!r} is not a rate; write how many in how long, such as 200/s, 60/m or 1000/h")


def size(value: object) -> int:
    """Bytes, from ``64KiB``, ``1MiB``, ``10MB`` or a whole number of bytes.

    Raises:
        ValueError: The value is malformed, or not a whole number of bytes.
    """
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if found := _SIZE.fullmatch(text):
        number = _finite(float(found[1]) * _BYTES[found[2] or "B"], value, "a size")
        if number.is_integer():
            return int(number)
    raise ValueError(f"{value!r} is not a size; write bytes, or 64KiB, 1MiB, 2GiB")


def byte_rate(value: object) -> float:
    """Bytes a second, from ``1KiB/s``; 0 switches the rule off.

    Raises:
        ValueError: The value is malformed.
    """
    if isinstance(value, str) and value.strip().endswith("/s"):
        return float(size(value.strip().removesuffix("/s").strip()))
    if (number := _number(value)) == 0:
        return number
    raise ValueError(f"{value!r} is not a data rate; write it as 1KiB/s, or 0 for none")


def statuses(value: object) -> frozenset[int]:
    """HTTP statuses, from 503, ``5xx``, ``500-504``, or a list of these.

    Raises:
        ValueError: A part is malformed, or not a range of statuses.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        return frozenset(status for part in value for status in _status_range(part))
    return _status_range(value)


def _status_range(value: object) -> frozenset[int]:
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if re.fullmatch(r"[1-5]xx", text):
        low = int(text[0]) * 100
        return frozenset(range(low, low + 100))
    if found := re.fullmatch(r"([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?", text, re.ASCII):
        low, high = int(found[1]), int(found[2] or found[1])
        if low <= high:
            return frozenset(range(low, high + 1))
    raise ValueError(f"{value!r} is not a status; write 503, 5xx, 500-504, or a list of these")


def render_duration(seconds: float) -> str:
    """The shortest text that reads back as ``seconds``."""
    if seconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms", "us"):
        number = seconds / _SECONDS[unit]
        text = f"{number:.0f}{unit}"
        if number >= 1 and float(f"{number:.0f}") * _SECONDS[unit] == seconds:
            return text
    return f"{_decimal(seconds)}s"


def render_rate(per_second: float) -> str:
    for unit in ("s", "m", "h", "d"):
        whole = round(per_second * _SECONDS[unit])
        if whole and whole / _SECONDS[unit] == per_second:
            return f"{whole}/{unit}"
    return f"{_decimal(per_second)}/s"


def render_byte_rate(per_second: float) -> str:
    return f"{per_second:.0f}B/s"


def render_statuses(found: frozenset[int]) -> list[int | str]:
    """Whole classes as ``5xx``, runs as ``a-b``, the rest one by one."""
    result: list[int | str] = []
    left = sorted(found)
    while left:
        run = 1
        while run < len(left) and left[run] == left[0] + run:
            run += 1
        low, high = left[0], left[run - 1]
        result.append(
            f"{low // 100}xx" if (low % 100, run) == (0, 100) else f"{low}-{high}" if run > 1 else low
        )
        left = left[run:]
    return result


def _decimal(number: float) -> str:
    """All digits of ``number``, without an exponent, which the parsers don't take."""
    text = repr(number)
    if "e" in text:
        from decimal import Decimal

        return f"{Decimal(text):f}"
    return text


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[ipv6]:port``.

    Raises:
        ValueError: ``text`` is neither.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", text, re.ASCII)
    if not found or int(found[3]) > 65535:
        example = "host:port such as 127.0.0.1:8080 or [::1]:8080, or :8080"
        raise ValueError(f"{text!r} is not an address; write {example}")
    return found[1] or found[2], int(found[3])


def _with_unit(parse: Callable[[object], float]) -> BeforeValidator:
    """Code may build a document from numbers; a file (which is validated with a context) must name units."""

    def read(value: object, info: ValidationInfo) -> float:
        number = None if info.context is not None or isinstance(value, str) else _number(value)
        return number or parse(value)

    return BeforeValidator(read)


def written(pattern: re.Pattern[str] | str, *others: dict[str, Any], example: str) -> WithJsonSchema:
    """The JSON Schema of text that matches ``pattern`` in whole, or of one of ``others``."""
    source = pattern if isinstance(pattern, str) else pattern.pattern
    text = {"type": "string", "pattern": rf"^\s*(?:{source})\s*$", "examples": [example]}
    return WithJsonSchema({"anyOf": [text, *others]} if others else text)


_ZERO: Final = {"const": 0}
_SHARE_PERCENT: Final = r"0*(?:100(?:\.0+)?|\d{1,2}(?:\.\d+)?)\s*%"
_PLAIN_OR_PERCENT: Final = rf"(?:{_PERCENT.pattern})|(?:{_PLAIN.pattern})"

Duration = Annotated[
    float,
    _with_unit(duration),
    PlainSerializer(render_duration, return_type=str, when_used="json"),
    written(rf"(?:{_DURATION.pattern})|0+(?:\.0+)?", _ZERO, example="10m"),
]
"""Seconds."""
PositiveDuration = Annotated[Duration, Field(gt=0)]
"""Seconds, more than none."""
Share = Annotated[
    float,
    BeforeValidator(share),
    written(
        rf"(?:{_SHARE_PERCENT})|(?:{_PLAIN.pattern})",
        {"type": "number", "minimum": 0, "maximum": 1},
        example="5%",
    ),
]
"""In [0, 1]."""
Amount = Annotated[
    float,
    BeforeValidator(amount),
    written(_PLAIN_OR_PERCENT, {"type": "number", "minimum": 0}, example="0.5%"),
]
"""Finite, not negative."""
AmountOrTime = Annotated[
    Amount,
    written(
        rf"{_PLAIN_OR_PERCENT}|(?:{_DURATION.pattern})", {"type": "number", "minimum": 0}, example="0.5%"
    ),
]
"""An amount that a section may read from a time."""
Rate = Annotated[
    float,
    _with_unit(rate),
    PlainSerializer(render_rate, return_type=str, when_used="json"),
    written(_RATE, example="200/s"),
]
"""Events a second, above 0."""
Count = Annotated[int, BeforeValidator(whole), Field(ge=0)]
PositiveInt = Annotated[int, BeforeValidator(whole), Field(ge=1)]
"""A whole number of 1 or more."""
FiniteFloat = Annotated[float, BeforeValidator(whole)]
Size = Annotated[
    int, BeforeValidator(size), written(_SIZE, {"type": "integer", "minimum": 0}, example="1MiB")
]
"""Bytes."""
ByteRate = Annotated[
    float,
    _with_unit(byte_rate),
    PlainSerializer(render_byte_rate, return_type=str, when_used="json"),
    written(rf"(?:{_SIZE.pattern})\s*/s|0", _ZERO, example="1KiB/s"),
]
"""Bytes a second; 0 for no rule."""
_STATUS: Final = {
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": r"^[1-5](?:xx|\d\d(?:\s*-\s*[1-5]\d\d)?)$", "examples": ["5xx"]},
    ]
}
Statuses = Annotated[
    frozenset[int],
    BeforeValidator(statuses),
    PlainSerializer(render_statuses, return_type=list[int | str], when_used="json"),
    WithJsonSchema({"anyOf": [_STATUS, {"type": "array", "items": _STATUS}]}),
]
"""HTTP statuses, for ``status in route.fallback_on.status``."""
SomeStatuses = Annotated[
    Statuses,
    Field(min_length=1),
    WithJsonSchema({"anyOf": [_STATUS, {"type": "array", "items": _STATUS, "minItems": 1}]}),
]
"""At least one."""
