"""A measured scenario as JSON and as Markdown."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.bench import Options
from benchmarks.peers import PEERS
from benchmarks.rounds import Series

RATIO_TO = ("envoy", "nginx")
"""The peers that a section's ratio column compares with."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: the median of figure ``name`` times ``scale``, and its range where ``spread``."""

    title: str
    name: str
    scale: float = 1.0
    digits: int = 1
    spread: bool = False
    unit: str = ""

    def cell(self, series: Series) -> str:
        value = series.median(self.name) * self.scale
        if math.isnan(value):
            return "–"
        text = f"{value:,.{self.digits}f}{self.unit}"
        if self.spread and len(series.samples) > 1:
            low, high = (end * self.scale for end in series.spread(self.name))
            text += f" ({low:,.{self.digits}f}–{high:,.{self.digits}f})"
        return text.replace(",", " ")


@dataclass(frozen=True, slots=True)
class Section:
    """One table: a row for each name. ``ratio`` names the figure that is compared with `RATIO_TO`."""

    title: str
    columns: Sequence[Column]
    series: Mapping[str, Series]
    ratio: str = ""
    labels: Mapping[str, str] | None = None

    def markdown(self) -> str:
        against = [name for name in RATIO_TO if self.ratio and name in self.series]
        titles = ["", *(column.title for column in self.columns), *(f"to {label(name)}" for name in against)]
        rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
        rows += [self._row(name, against) for name in self.series]
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        return f"**{self.title}**\n\n{table}\n{self._notes()}"

    def _row(self, name: str, against: Sequence[str]) -> list[str]:
        series = self.series[name]
        cells = [column.cell(series) for column in self.columns]
        mine = series.median(self.ratio) if self.ratio else math.nan
        ratios = [mine / self.series[other].median(self.ratio) for other in against]
        shown = ["–" if math.isnan(ratio) or not mine else f"{ratio:.2f}" for ratio in ratios]
        return [(self.labels or {}).get(name) or label(name), *cells, *shown]

    def _notes(self) -> str:
        notes = [
            f"{label(name)}: {series.discarded} of {series.discarded + len(series.samples)} rounds discarded "
            f"({'; '.join(series.faults)[:200]})."
            for name, series in self.series.items()
            if series.discarded
        ]
        return "\n" + "\n".join(notes) + "\n" if notes else ""


@dataclass(frozen=True, slots=True)
class Result:
    """All sections of one scenario. ``missing``: peers that did not start, with the reason."""

    scenario: str
    options: Options
    sections: Sequence[Section]
    missing: Mapping[str, str]
    others: Mapping[str, str] = field(default_factory=dict)
    """Versions of what is no regular peer."""

    def as_dict(self) -> dict[str, object]:
        return {
            "scenario": self.scenario,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine.facts(),
            "versions": self._versions(),
            "options": asdict(self.options),
            "missing": {name: why.strip().split("\n")[0][:200] for name, why in self.missing.items()},
            "sections": [
                {"title": each.title, "series": {name: s.as_dict() for name, s in each.series.items()}}
                for each in self.sections
            ],
        }

    def _versions(self) -> dict[str, str]:
        return {**versions(self.options.peers), **self.others}

    def markdown(self) -> str:
        facts, day = machine.facts(), time.strftime("%Y-%m-%d", time.gmtime())
        about = (
            f"Measured {day}, {facts['cores']} cores ({facts['processor']}), "
            f"Linux {facts['kernel']}, Python {facts['python']}; medians of {self.options.rounds} rounds of "
            f"{self.options.seconds:g} s, in brackets minimum and maximum. "
            + "; ".join(f"{name} {number}" for name, number in self._versions().items() if number)
            + "."
        )
        parts = [about, *(section.markdown() for section in self.sections)]
        parts += [
            f"Not measured: {name} ({why.strip().splitlines()[0][:160]})."
            for name, why in self.missing.items()
        ]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def write(self, directory: Path) -> Path:
        """``SCENARIO.json`` and ``SCENARIO.md`` in ``directory``; returns the JSON file's path."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.scenario}.md").write_text(self.markdown())
        target = directory / f"{self.scenario}.json"
        target.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        return target


def label(name: str) -> str:
    return PEERS[name].label if name in PEERS else name


def versions(names: Sequence[str]) -> dict[str, str]:
    found = {name: PEERS[name].version() for name in names if name in PEERS}
    return {
        name: number
        for name, number in found.items()
        if not (name == "turnout-routing" and "turnout" in found)
    }


def into_document(document: Path, scenario: str, text: str) -> bool:
    """Replaces what is between ``<!-- SCENARIO -->`` and ``<!-- /SCENARIO -->``; False without them."""
    whole = document.read_text()
    begin, end = f"<!-- {scenario} -->", f"<!-- /{scenario} -->"
    if begin not in whole or end not in whole:
        return False
    before, rest = whole.split(begin, 1)
    after = rest.split(end, 1)[1]
    document.write_text(f"{before}{begin}\n{text}{end}{after}")
    return True
