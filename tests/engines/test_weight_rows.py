"""Rows of requests that were assigned by weights: which count, and with which propensity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config.load import load
from gateway.engines.envoy.bootstrap import ROW
from gateway.engines.kubernetes.rows import FORMAT, WeightsReader, places
from gateway.engines.kubernetes.writer import Change
from gateway.engines.rows import SEPARATOR
from gateway.record.events import Outcome
from tests.engines.cluster import CONFIG, PLACE
from tests.engines.test_stamps import UUID

NOW = 1_800_000_000.0
ROUTE = "httproute/prod/digits/rule/0/match/0/*"
FIELDS = ("200", "-", "1", "12000", "2000", "9000", "10", "20", "10.0.0.1:8080", "request-1", "-")
STATUS, FLAGS, ADDRESS = 0, 1, 8


def row(variant: str = "v1", route: str = ROUTE, *, at: float = NOW, **fields: str) -> str:
    """A row as Envoy writes it; ``fields``: f0, f1, … replace those of FIELDS."""
    rest = [fields.get(f"f{number}", value) for number, value in enumerate(FIELDS)]
    return SEPARATOR.join((f"{at * 1000:.0f}.{UUID}.{variant}", route, variant, *rest))


def reader(*changes: Change) -> WeightsReader:
    def weights_at(route: str, time: float) -> Change | None:
        return next((change for change in reversed(changes) if change.since <= time), None)

    document = load(CONFIG.format(url="http://127.0.0.1:1", options=""), source="test", env={})
    return WeightsReader(document, {PLACE: "digits"}, 7, weights_at)


def outcome(reader: WeightsReader, text: str) -> Outcome | None:
    """What the reader makes of a row between two others, one of them refused; None if it refuses it."""
    texts = [each.encode() for each in (row(f7="-7"), text, row(f10="last"))]
    found = reader.read("node", texts, NOW).outcomes
    assert found[-1][Outcome._fields.index("request_bytes")] == 10, "the row behind is whole"
    return Outcome._make(found[0]) if len(found) > 1 else None


def change(weights: Mapping[int, Mapping[str, int]], epoch: int = 3) -> Change:
    return Change(0.0, 0.0, weights, epoch)


def test_the_log_has_the_fields_of_an_envoy_node() -> None:
    assert len(FORMAT.split(SEPARATOR)) == len(ROW) == len(row().split(SEPARATOR))


def test_a_row_has_the_propensity_of_the_weights_at_its_time() -> None:
    found = outcome(reader(change({0: {"v1": 6300, "v2": 2700}})), row("v2"))
    assert found is not None
    assert (found.route, found.assigned, found.served, found.epoch, found.revision) == (
        "digits",
        "v2",
        "v2",
        3,
        7,
    )
    assert (found.propensity, found.forced, found.sticky) == (0.3, False, False)
    assert (found.time, found.total_ms, found.request_id) == (NOW, 12.0, "request-1")


@pytest.mark.parametrize(
    "weights",
    [None, {0: {"v1": 1_000_000, "v2": 0}}, {1: {"v1": 1, "v2": 1}}],
    ids=["unknown", "zero", "other rule"],
)
def test_a_request_whose_weight_is_unknown_is_recorded_and_does_not_count(weights: Any) -> None:
    found = outcome(reader() if weights is None else reader(change(weights)), row("v2"))
    assert found is not None
    assert (found.assigned, found.forced, found.propensity) == ("v2", True, 1.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (row("v9"), "an unknown variant"),
        (row("-"), "no variant"),
        (row(route="httproute/prod/other/rule/0/match/0/*"), "another HTTPRoute"),
        (row(route="grpcroute/prod/digits/rule/0/match/0/*"), "another kind"),
        (row(f1="UAEX", f0="401", f8="-"), "a filter responded before a backend was chosen"),
        (row(f0="404", f8="-"), "no backend was chosen"),
        (row().replace(SEPARATOR, "|"), "another format"),
        ("", "nothing"),
    ],
)
def test_a_row_of_no_variant_is_rejected(text: str, why: str) -> None:
    assert outcome(reader(change({0: {"v1": 1, "v2": 1}})), text) is None, why


def test_a_backend_that_cannot_be_reached_is_the_variant_s_failure() -> None:
    found = outcome(reader(change({0: {"v1": 1, "v2": 1}})), row(f0="503", f1="UH", f8="-"))
    assert found is not None
    assert (found.assigned, found.served, found.error, found.failed) == ("v1", "", "backend_unhealthy", True)


def test_the_newest_time_of_each_httproute_says_how_far_weights_must_be_known() -> None:
    texts = [row(at=NOW), row(at=NOW + 2), row(at=NOW + 1), row(route="other"), "", "x" + SEPARATOR + ROUTE]
    texts.append("\xb2" + row(at=NOW + 3))
    assert places(text.encode("latin-1") for text in texts) == {PLACE: NOW + 2}
