"""What the page of ``turnout report`` is written with: elements whose text is escaped, and figures in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final, Literal

from gateway.telemetry.printable import printable
from policies.types import ERROR_RATES

NONE: Final = "–"
MIN_SHARE: Final = 1e-11
"""Sizes of shares below are what sums of floating-point numbers leave of 0."""

Kind = Literal["share", "ms", "number"]
"""In what values of a metric are written."""
Interval = Sequence[float | None]


class Html(str):
    """Markup: the only text that `tag` does not escape."""

    __slots__ = ()


Content = object
"""Markup, a text, a number, or an iterable of these; None is left out."""


def markup(content: Content) -> Html:
    """Return ``content`` as markup. Control characters and those that turn the text around become escapes."""
    if isinstance(content, Html):
        return content
    if content is None:
        return Html("")
    if isinstance(content, Iterable) and not isinstance(content, str):
        return Html("".join(map(markup, content)))
    return Html(escape(printable(str(content))))


def tag(name: str, *content: Content, **attributes: object) -> Html:
    """Return an element. The attribute ``class_`` is ``class``."""
    given = "".join(
        f' {key.strip("_").replace("_", "-")}="{markup(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{markup(content)}</{name}>")


def kind_of(metric: str, declared: Mapping[str, Any]) -> Kind:
    if metric.startswith("latency_"):
        return "ms"
    types = declared.get(metric, {}).get("type")
    return "share" if metric in (*ERROR_RATES, "agreement") or types in ("boolean", "fraction") else "number"


def number(x: float | None, sign: str = "", factor: float = 1.0) -> str:
    """``factor`` times ``x``, in four digits; whole numbers and those from 10,000 on have all before the point.

    Of shares (``factor`` 100), rounding errors are 0.
    """
    if x is None:
        return NONE
    x = 0.0 if factor != 1.0 and abs(x) < MIN_SHARE else factor * x + 0.0  # -0.0 is 0.0
    shape = f"{sign},.0f" if x == int(x) or abs(x) >= 9999.5 else f"{sign}.4g"
    return format(x, shape).replace("-", "−")


def share(x: float | None, sign: str = "") -> str:
    return NONE if x is None else f"{number(x, sign, 100.0)} %"


def value(x: float | None, kind: Kind) -> str:
    return share(x) if kind == "share" or x is None else f"{number(x)} ms" if kind == "ms" else number(x)


def difference(x: float | None, kind: Kind) -> str:
    """With its sign; of shares in percentage points."""
    unit = {"share": " pp", "ms": " ms", "number": ""}[kind]
    return NONE if x is None else number(x, "+", factor_of(kind)) + unit


def loss(x: float | None, kind: Kind) -> str:
    return difference(x, kind).lstrip("+")


def probability(p: float) -> str:
    """An estimated probability, which is never exactly 0 or 1."""
    return "<0.1 %" if p < 0.001 else ">99.9 %" if p > 0.999 else share(p)


def factor_of(kind: Kind) -> float:
    return 100.0 if kind == "share" else 1.0


def ends(interval: Interval | None, factor: float = 1.0, sign: str = "") -> Html:
    """ "[−1, 2]" on one line; an end on whose side nothing is excluded is an ellipsis."""
    known = ", ".join("…" if x is None else number(x, sign, factor) for x in interval or ())
    return tag("span", f"[{known or 'no interval yet'}]", class_="n")


NO_RATIO: Final = "baseline too uncertain for a ratio"


def too_uncertain(relative_interval: Interval | None) -> bool:
    """Whether a ratio may be below 1 or above 10: the baseline is too uncertain to divide by."""
    low, high = relative_interval or (0.0, 0.0)
    return (low is None or low < 0) and (high is None or high > 9)


def time(seconds: float | None) -> str:
    """Date and time in UTC."""
    return NONE if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def words(text: object) -> str:
    """ "rolled_back" as "rolled back"."""
    return str(text).replace("_", " ")


def table(caption: str, header: Sequence[Content], rows: Iterable[Sequence[Content]]) -> Html:
    """A table; a row of one cell names the rows below it."""
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]])
        if len(row) > 1
        else tag("tr", tag("th", row[0], scope="rowgroup", colspan=len(header)))
        for row in rows
    ]
    names = tag("thead", tag("tr", [tag("th", name, scope="col") for name in header]))
    return tag("table", tag("caption", caption), names, tag("tbody", body))
