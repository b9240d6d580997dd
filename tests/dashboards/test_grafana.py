"""The Grafana dashboard asks only for what the gateway has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dashboards
from gateway.telemetry.metrics import Metrics

FILE = Path(dashboards.__file__).parent / "grafana" / "turnout.json"
BOARD: dict[str, Any] = json.loads(FILE.read_text())


def expressions() -> list[str]:
    found = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])]
    return (
        found
        + [a["expr"] for a in BOARD["annotations"]["list"]]
        + [v.get("definition", "") for v in BOARD["templating"]["list"]]
    )


def names() -> dict[str, set[str]]:
    """Each sample's name with the labels of its metric."""
    found: dict[str, set[str]] = {}
    for metric in Metrics().registry._collector_to_names.items():
        collector, series = metric
        for name in series:
            found[name] = set(collector._labelnames)  # type: ignore[attr-defined]
    return found


def test_every_metric_that_it_asks_for_exists() -> None:
    known = names()
    asked = {name for text in expressions() for name in re.findall(r"turnout_\w+", text)}
    assert len(asked) > 10
    assert asked <= set(known), asked - set(known)


def test_every_label_that_it_asks_for_exists() -> None:
    known = names()
    for text in expressions():
        for name, selector in re.findall(r"(turnout_\w+){([^}]*)}", text):
            asked = set(re.findall(r"(\w+)\s*=~?", selector))
            assert asked <= known[name], (name, asked)


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                assert x < 24
                taken[x, y] = panel["title"]
