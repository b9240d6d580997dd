"""Rows of an export are read together, and each as if it came alone."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.load import load
from gateway.engines.rows import SEPARATOR, StampReader
from gateway.record.decision_id import Sealer
from gateway.record.events import Outcome
from gateway.record.stamp import Stamp
from gateway.state.paging import MAX_PAGE_ROWS

NOW: Final = 1_800_000_000.0
SEALER: Final = Sealer([b"k" * 32])
CONFIG: Final = """
backends: {a: {url: "http://127.0.0.1:1"}, b: {url: "http://127.0.0.1:2"}}
engines: {edge: {type: envoy, token: "0123456789abcdef0123456789abcdef"}}
routes:
  one: &route
    engine: edge
    match: {path: /one}
    unit: {header: x-user-id}
    variants: {v1: {backend: a}, v2: {backend: b}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  two: {<<: *route, match: {path: /two}}
  named: {<<: *route, match: {path: /named}, fallback_on: {status: [404, 503]}, retry: {on: {status: 429}}}
"""
ROUTES: Final = load(CONFIG, source="test", env={}).routes
FIELDS: Final = ("v1", "200", "-", "1", "3000", "100", "2000", "5", "6", "127.0.0.1:1", "request-1", "ann")


def row(number: int, route: str = "one", *fields: str, stamped: str = "") -> bytes:
    """A row as Envoy writes it; ``fields`` replace the first of FIELDS."""
    stamp = SEALER.stamp(Stamp(stamped or route, "v1", 1, 0.5, NOW - 100))
    uuid = f"{number:08x}-abb1-4cc3-9ff2-14687957e375"
    rest = *fields, *FIELDS[len(fields) :]
    return SEPARATOR.join((f"{stamp}.{NOW * 1000:.0f}.{uuid}", route, *rest)).encode("latin-1")


def read(*rows: bytes) -> list[tuple[Any, ...]]:
    found = StampReader(ROUTES, 1, SEALER.open_stamp).read("node", rows, NOW)
    assert len(found.outcomes) + found.refused == len(rows)
    return [*found.outcomes]


WHOLE = st.builds(
    row,
    st.integers(0, 99),
    st.sampled_from(["one", "two", "other"]),
    st.sampled_from(["v1", "v2", "-", "v 3", "\n"]),
    st.sampled_from(["200", "503", "0", "-", "1000", "\xb2"]),
    st.sampled_from(["-", "UF", "DC", "UF,URX", "\n"]),
    st.sampled_from(["1", "2", "-"]),
    st.sampled_from(["3000", "-", "", "-1", "\xb2", "9" * 20, "1 2"]),
    stamped=st.sampled_from(["", "", "", "two"]),
)
FIELD = st.sampled_from([b"", b"\n", b"1", b"v1"])
OTHER = st.lists(FIELD, max_size=31).map(SEPARATOR.encode().join)


@given(st.lists(st.one_of(WHOLE, WHOLE, OTHER), max_size=8))
def test_each_row_is_read_as_if_it_came_alone(rows: list[bytes]) -> None:
    assert read(*rows) == [outcome for each in rows for outcome in read(each)]


def test_a_row_that_holds_the_border_of_two_is_none() -> None:
    parts = SEPARATOR.encode(), b"\n", SEPARATOR.encode()
    double = b"".join((row(1), *parts, row(2)))
    assert read(double) == []
    assert len(read(row(3), double, row(4))) == 2
    assert read(double, b"") == []
    assert read(row(1)[:-4], b"x" + parts[0] + row(2)) == [], "a field less, and one more"


def test_an_export_of_any_length_keeps_its_order() -> None:
    rows = [row(number) for number in range(2 * MAX_PAGE_ROWS + 10)]
    rows[5] = rows[MAX_PAGE_ROWS + 5] = b"?"
    found = [outcome[0] for outcome in read(*rows)]
    assert found == sorted(found)
    assert len(found) == len(rows) - 2


def test_a_status_that_the_route_names_is_an_error_of_the_variant() -> None:
    """As in the gateway itself; a response of the node, without a backend, is not."""
    for status, variant, error in [
        ("404", "v1", "backend_status"),
        ("429", "v1", "backend_status"),
        ("404", "-", ""),
    ]:
        for route, wanted in ("named", error), ("one", ""):
            (found,) = read(row(1, route, variant, status))
            assert Outcome._make(found).error == wanted
