"""What a bandit with features costs: a decision as the gateway makes it, and an ensemble from sums to requests.

`python -m benchmarks.policies` prints these figures below its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import numpy as np

from gateway.compile.ensembles import Drawn, draw, refit, restore
from gateway.dataplane.request.features import FeatureExtractor
from gateway.dataplane.request.json_body import read
from gateway.dataplane.tables import Choice, Table
from policies.allocate import allocate
from policies.contextual.bandit import Contextual
from policies.contextual.features import Categorical, Feature, Numeric, encode
from policies.contextual.regression import LinearSums

Timer = Callable[[Callable[[], object]], float]


class Request:
    """As much of a request as features are read from."""

    def __init__(self, headers: dict[bytes, bytes], body: bytes) -> None:
        self.headers = headers
        self.fields = read(body).fields


def choose(table: Table, request: Request) -> Choice:
    """One decision, as the gateway makes it."""
    assert table.extractor is not None
    shares = table.shares(table.extractor.extract(request.headers, request.fields, -1))
    return shares.choices[shares.allocation.pick(0.7)]


def _plan(features: tuple[Feature, ...], variants: int) -> Contextual:
    return Contextual(tuple(f"v{k}" for k in range(variants)), "m", features, floor=0.01)


def _sums(contextual: Contextual, rng: np.random.Generator, rows: int = 400) -> dict[str, LinearSums]:
    found = {}
    for variant in contextual.variants:
        x = [encode(contextual.features, _raw(contextual.features, rng)) for _ in range(rows)]
        found[variant] = LinearSums.of(x, rng.integers(0, 2, rows))
    return found


def _raw(features: tuple[Feature, ...], rng: np.random.Generator) -> dict[str, Any]:
    return {
        f.name: str(rng.choice(f.values)) if isinstance(f, Categorical) else float(rng.random())
        for f in features
    }


def decisions(microseconds: Callable[..., float], rng: np.random.Generator) -> dict[str, float]:
    """µs for one decision of five variants, reading and recording the features included."""
    found = {}
    for name, in_body in (("header", False), ("JSON field", True)):
        features: tuple[Feature, ...] = (Categorical("tier", ("free", "paid")), Numeric("length"))
        contextual = _plan(features, 5)
        extractor = FeatureExtractor(
            [
                (features[0], b"x-tier", ()),
                (features[1], None if in_body else b"x-length", ("prompt", "length")),
            ]
        )
        drawn = draw(contextual, _sums(contextual, rng), {}, (1, 2))
        table = _table(contextual, extractor, drawn)
        seen = Request(
            {b"x-tier": b"paid", b"x-length": b"0.5"}, json.dumps({"prompt": {"length": 0.5}}).encode()
        )
        found[f"a kind seen before, {name}"] = microseconds(lambda t=table, x=seen: choose(t, x))
        new = _fresh(rng)
        found[f"a new kind, {name}"] = microseconds(lambda t=table, each=new: choose(t, next(each)), 500)
    return found


def _fresh(rng: np.random.Generator) -> Iterator[Request]:
    made = [
        Request({b"x-tier": b"paid", b"x-length": b"%.9f" % x}, b'{"prompt": {"length": %.9f}}' % x)
        for x in rng.random(5000).tolist()
    ]
    while True:
        yield from made


def _table(contextual: Contextual, extractor: FeatureExtractor, drawn: Drawn) -> Table:
    class Variant:
        def __init__(self, name: str) -> None:
            self.name = name

    variants = {name: cast("Any", Variant(name)) for name in contextual.variants}
    allocation = allocate(contextual)
    return Table("r", 1, allocation, variants, lambda *_: b"", extractor, drawn.ensemble)


def _draw_and_pack(contextual: Contextual, sums: Mapping[str, LinearSums]) -> bytes:
    return draw(contextual, sums, {}, (1, 2)).packed()


def refreshes(milliseconds: Timer, rng: np.random.Generator) -> dict[str, tuple[float, float, float, int]]:
    """By size: ms to see whether anything has moved, ms to draw and pack, ms to restore, and the bytes."""
    found = {}
    for wide, variants in ((5, 2), (16, 5), (32, 8)):
        features: tuple[Feature, ...] = tuple(Numeric(f"n{k}") for k in range((wide - 1) // 2))
        if wide % 2 == 0:
            features = (*features, Categorical("c", ("x",)))
        contextual = _plan(features, variants)
        sums = _sums(contextual, rng, 100)
        drawn = draw(contextual, sums, {}, (1, 2))
        packed = drawn.packed()
        found[f"{contextual.width} columns, {variants} variants"] = (
            milliseconds(partial(refit, contextual, sums, {}, drawn)),
            milliseconds(partial(_draw_and_pack, contextual, sums)),
            milliseconds(partial(restore, contextual, packed)),
            len(packed),
        )
    return found
