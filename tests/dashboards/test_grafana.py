"""The Grafana dashboards ask only for what the gateway has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import dashboards
from gateway.telemetry.metrics import Metrics

FOLDER = Path(dashboards.__file__).parent / "grafana"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}
every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def expressions(board: dict[str, Any]) -> list[str]:
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return (
        found
        + [a["expr"] for a in board["annotations"]["list"]]
        + [v.get("definition", "") for v in board["templating"]["list"]]
    )


def names() -> dict[str, set[str]]:
    """Each sample's name with the labels of its metric."""
    found: dict[str, set[str]] = {}
    for metric in Metrics().registry._collector_to_names.items():
        collector, series = metric
        for name in series:
            found[name] = set(collector._labelnames)  # type: ignore[attr-defined]
    return found


@every_board
def test_every_metric_that_it_asks_for_exists(board: dict[str, Any]) -> None:
    known = names()
    asked = {name for text in expressions(board) for name in re.findall(r"turnout_\w+", text)}
    assert len(asked) > 10
    assert asked <= set(known), asked - set(known)


@every_board
def test_every_label_that_it_asks_for_exists(board: dict[str, Any]) -> None:
    known = names()
    for text in expressions(board):
        for name, selector in re.findall(r"(turnout_\w+){([^}]*)}", text):
            asked = set(re.findall(r"(\w+)\s*=~?", selector))
            assert asked <= known[name], (name, asked)


@every_board
def test_panels_do_not_overlap_and_have_numbers_of_their_own(board: dict[str, Any]) -> None:
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                assert x < 24
                taken[x, y] = panel["title"]


def test_boards_have_names_of_their_own() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS) == 2
