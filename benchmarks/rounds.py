"""Several short rounds of every peer, in rotating order, so that a noisy minute hurts all alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

Sample = dict[str, float]
"""The figures of one round by name; `errors` must be among them."""


@dataclass(slots=True)
class Series:
    """The rounds of one peer under one condition. ``discarded`` counts those thrown away for errors."""

    samples: list[Sample] = field(default_factory=list)
    discarded: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        if sample["errors"]:
            self.discarded += 1
            self.faults.append(f"{sample['errors']:g} errors")
        else:
            self.samples.append(sample)

    def median(self, name: str) -> float:
        """NaN when every round was thrown away."""
        values = [sample[name] for sample in self.samples if name in sample]
        return median(values) if values else float("nan")

    def spread(self, name: str) -> tuple[float, float]:
        values = [sample[name] for sample in self.samples if name in sample]
        return (min(values), max(values)) if values else (float("nan"), float("nan"))

    def as_dict(self) -> dict[str, object]:
        names = sorted({name for sample in self.samples for name in sample})
        return {
            "rounds": len(self.samples),
            "discarded": self.discarded,
            "faults": self.faults,
            "median": {name: self.median(name) for name in names},
            "min_max": {name: self.spread(name) for name in names},
            "samples": self.samples,
        }


def interleave(
    names: Sequence[str],
    rounds: int,
    measure: Callable[[str], Sample],
    *,
    title: str = "",
    before: Callable[[str], None] | None = None,
) -> dict[str, Series]:
    """``rounds`` times every name in turn, each round beginning one name further.

    ``before`` is called with the name ahead of each measurement.
    """
    series = {name: Series() for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in [*names[start:], *names[:start]]:
            if before is not None:
                before(name)
            try:
                series[name].add(measure(name))
            except (OSError, RuntimeError) as error:
                series[name].discarded += 1
                series[name].faults.append(str(error))
            progress(f"{title} round {number + 1}/{rounds} {name}")
    return series


def progress(text: str) -> None:
    """To standard error, and only where somebody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
