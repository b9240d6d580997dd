"""What deciding costs: a refresh of one allocation (slow path), and one decision (hot path).

    python -m benchmarks.policies [--json]

Figures are medians of processor time, so that other work on the machine counts little. How long refreshes hold up the
event loop, `benchmarks.allocations` measures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import contextual
from policies.allocation.bandit import Bandit, Objective, refresh
from policies.allocation.bucketing import point, unit_hash
from policies.allocation.model import Learned
from policies.contextual.bandit import Contextual, ensemble
from policies.contextual.features import Categorical, Numeric
from policies.contextual.regression import LinearSums
from policies.types import MetricType, RewardSums

Job = tuple[Bandit, Learned]


def job(variants: int, model: MetricType, rng: np.random.Generator, spread: float = 0.1) -> Job:
    """A bandit in mid-flight: thousands of rewards, nothing decided, an allocation in force."""
    names = tuple(f"v{k}" for k in range(variants))
    plan = Bandit(names, (Objective("m", model),), floor=0.01 / variants)
    counts = rng.integers(100, 20_000, variants)
    means = 0.3 + spread * rng.random(variants)
    sums = {
        (name, "m"): RewardSums(float(n), float(round(n * m)), float(round(n * m * 1.3)))
        for name, n, m in zip(names, counts, means, strict=True)
    }
    before, _ = refresh(plan, Learned())
    return plan, Learned(sums=sums, previous=before)


def milliseconds(work: Callable[[], object], repetitions: int = 50) -> float:
    work()
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def microseconds(work: Callable[[], object], batch: int = 2000) -> float:
    def many() -> None:
        for _ in range(batch):
            work()

    return 1e3 * milliseconds(many, 9) / batch


def one_route(rng: np.random.Generator) -> dict[str, float]:
    rows = {}
    for model in ("boolean", "real", "count"):
        for variants in (2, 5, 20, 100):
            plan, learned = job(variants, model, rng)
            rows[f"{model}, {variants} variants"] = milliseconds(lambda p=plan, x=learned: refresh(p, x))  # type: ignore[misc]
    fresh = job(5, "boolean", rng)[0]
    rows["boolean, 5 variants, no rewards yet"] = milliseconds(lambda: refresh(fresh, Learned()))
    return rows


def one_decision(rng: np.random.Generator) -> dict[str, float]:
    plan, learned = job(5, "boolean", rng)
    allocation, _ = refresh(plan, learned)
    salt, unit = b"route" * 6, b"user-1234567"
    features = (Categorical("tier", ("free", "paid")), Numeric("length", 0, 1000))
    looking = Contextual(plan.variants, "m", features)
    sums = {v: LinearSums.of(rng.normal(size=(200, 5)), rng.normal(size=200)) for v in plan.variants}
    drawn = ensemble(looking, sums, rng)
    rows = iter(rng.uniform(-1, 1, (100_000, 5)).tolist())
    return {
        "unit_hash": microseconds(lambda: unit_hash(salt, unit)),
        "unit_hash, point and pick": microseconds(lambda: allocation.pick(point(unit_hash(salt, unit)))),
        "pick": microseconds(lambda: allocation.pick(0.7)),
        "contextual, a new row (256 draws)": microseconds(
            lambda: drawn.allocation(next(rows)).pick(0.7), 500
        ),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What deciding costs.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(1)
    route, decision = one_route(rng), one_decision(rng)
    seeing, drawing_all = contextual.decisions(microseconds, rng), contextual.refreshes(milliseconds, rng)
    if given.json:
        figures = {"refresh_ms": route, "decision_us": decision}
        json.dump(figures | {"features_us": seeing, "ensembles": drawing_all}, sys.stdout, indent=1)
        print()
        return 0
    print("one refresh (posteriors, P(best), loss, ranges)          median ms")
    for name, value in route.items():
        print(f"  {name:52} {value:10.2f}")
    print("\none decision                                             median µs")
    for name, value in decision.items():
        print(f"  {name:52} {value:10.2f}")
    print("\na bandit with features, in the gateway                    median µs")
    for name, value in seeing.items():
        print(f"  {name:52} {value:10.2f}")
    print("\nits ensembles (256 draws)        has it moved, ms   draw, ms   restore, ms   bytes")
    for name, (moving, drawing, restoring, size) in drawing_all.items():
        print(f"  {name:30} {moving:16.2f} {drawing:10.2f} {restoring:13.2f} {size:7d}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
