"""The output that all simulations of `turnout simulate` share."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from gateway.commands.output import progress
from policies.simulation.bandit import Report
from policies.simulation.contextual import ContextReport
from policies.simulation.summary import Estimated


def chosen(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the worlds of ``names`` that are ``wanted``; all of them if none is named.

    Raises:
        ValueError: There is no such world.
    """
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise ValueError(f"there is no world {unknown[0]!r}; known: {', '.join(names)}")
    return list(wanted or names)


def shown(found: Estimated | None, digits: int = 0) -> str:
    if found is None:
        return "-"
    values = [found.value, found.low, found.high]
    if not isfinite(found.value):
        return "never"
    return "{} [{}, {}]".format(*(f"{value:.{digits}f}" for value in values))


class Progress:
    """A progress bar on a terminal."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, done: int, whole: int) -> None:
        filled = round(30 * done / whole)
        bar = f"{self._name:23} {'█' * filled}{'░' * (30 - filled)} {done}/{whole}"
        progress(bar if done < whole else "")


def plot(reports: Sequence[Report | ContextReport], path: Path) -> None:
    """Regret over time, as the ending of ``path`` says. Raises ValueError without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise ValueError("a plot needs matplotlib: pip install 'turnout[plot]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for report in reports:
        requests = [point.requests for point in report.curve]
        low, high = [p.regret.low for p in report.curve], [p.regret.high for p in report.curve]
        (line,) = axes.plot(requests, [point.regret.value for point in report.curve], label=report.world)
        axes.fill_between(requests, low, high, alpha=0.15, color=line.get_color())
    axes.set(xlabel="requests", ylabel="regret (mean over runs, 95 % interval)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)
