"""A TensorZero configuration as one of ours: functions and models as routes, variants with shares or a bandit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from gateway.commands.tensorzero_providers import ByHand, Limits, Names, Providers, Target, extra_headers
from gateway.commands.tensorzero_text import LONGEST, Route, by_hand_lines, comments, flow, literal, text
from gateway.commands.toml_file import Table, TomlFiles, one_line
from gateway.config.document import observed

_STATIC: Final = ("static", "static_weights", "uniform")
_ADAPTIVE: Final = ("adaptive", "track_and_stop")
_ATTEMPTS: Final = 9
"""Most retries of ours."""
_SEVERAL: Final = (
    "a variant of this type asks a model several times or adds to the prompt: let the client do that, or a server in "
    "front of the model, which is then a backend and a variant"
)
_ALIKE: Final = (
    "these variants now send the same request, since they differ only in what is not imported: leave one, or give "
    "each a 'payload' and let the client ask POST /-/decide (docs/decide.md)"
)
_SPARE: Final = (
    "a bandit gives every variant of its route a share, so what only steps in is left out: with 'policy: {type: split, "
    "…}' it can be a 'fallback'"
)


@dataclass(frozen=True)
class Imported:
    """The text of a configuration, and what it does not say."""

    text: str
    by_hand: Mapping[str, Sequence[str]]
    """What to do → keys of the file that need it."""

    variables: Sequence[str]
    """Environment variables that it needs."""


def imported(paths: Sequence[Path]) -> Imported:
    """The configuration that serves what the TensorZero files at ``paths`` together describe.

    Raises:
        ConfigError: A file can't be read, is not TOML, or does not configure TensorZero.
    """
    return _Import(TomlFiles(paths).top).result()


@dataclass(frozen=True)
class _Variant:
    targets: tuple[Target, ...]
    """First choice first; empty: the variant can't be imported."""
    notes: list[str]
    weight: float | None
    limits: Limits = field(default_factory=Limits)
    retries: int = 0
    delay: float = 0.0


@dataclass(frozen=True)
class _Plan:
    """How requests are distributed over the variants of a function."""

    weights: dict[str, float]
    fallback: list[str]
    bandit: dict[str, object] | None


class _Import:
    def __init__(self, top: Table) -> None:
        if not {"functions", "models", "embedding_models"}.intersection(top.rest()):
            top.fail(
                "there is nothing to import, neither functions nor models; for what clients call without them, such as "
                "tensorzero::model_name::openai::gpt-4o, write a route with that name under 'match: {model: …}'"
            )
        self._top = top
        self._by_hand = ByHand()
        self._names = Names()
        self._gateway = top.table("gateway")
        self._base = (self._gateway.take("base_path", str) or "").strip("/")
        self._longest = self._gateway.number("global_outbound_http_timeout_ms") or LONGEST
        names = Names()
        self._metrics = {name: (names.of(_free(name)), t) for name, t in top.tables("metrics").items()}
        self._providers = Providers(top, self._by_hand)

    def result(self) -> Imported:
        routes = [
            r for name, table in self._top.tables("functions").items() for r in self._function(name, table)
        ]
        routes += self._direct("models", "model", "chat/completions")
        routes += self._direct("embedding_models", "embedding_model", "embeddings")
        lines = [
            "# yaml-language-server: $schema=turnout.schema.json",
            "# Written by 'turnout import tensorzero' (docs/tensorzero.md). Every option: docs/configuration.md.",
            "",
            *self._listen(),
            "store: sqlite:///turnout.db       # or redis://HOST:6379/0, to share it among replicas",
            "",
            *self._metric_lines(),
            "backends:" if any(route.variants for route in routes) else "backends: {}",
        ]
        variables: list[str] = []
        used = {target.backend for route in routes for _, target, _ in route.variants}
        for name, (url, headers) in self._providers.backends.items():
            if name not in used:
                continue
            lines.append(f"  {text(name)}: {flow({'url': url} | ({'headers': headers} if headers else {}))}")
            variables += re.findall(r"(?<!\$)\$\{(\w+)\}", lines[-1])
        lines += ["", "routes:" if any(route.variants for route in routes) else "routes: {}"]
        for route in routes:
            lines += route.lines(self._longest)
        lines += comments([*self._by_hand.rest(self._gateway), *self._by_hand.rest(self._top)])
        if self._by_hand.keys:
            lines += ["", "# Not imported, and what to do instead:"]
            lines += comments(by_hand_lines(self._by_hand.keys))
        return Imported("\n".join(lines) + "\n", self._by_hand.keys, sorted(set(variables)))

    # Functions ------------------------------------------------------------------------------------------
    def _function(self, name: str, table: Table) -> Iterator[Route]:
        table.take("type", str)
        about = table.take("description", str)
        tables = table.tables("variants")
        if not tables:
            table.fail("this function has no variants; write at least one")
        variants = {variant: self._variant(inner) for variant, inner in tables.items()}
        base = table.table("experimentation")
        scopes = {"": base, **base.tables("namespaces")}
        plans = {scope: self._plan(inner, variants) for scope, inner in scopes.items()}
        sampled = {variant for plan in plans.values() for variant in (*plan.weights, *plan.fallback)}
        for variant in variants:
            if variant not in sampled:
                self._by_hand.add("nothing: no experiment samples this variant", tables[variant].path)
        own = [*([about] if about else []), *self._by_hand.rest(table)]
        for scope, plan in plans.items():
            model = f"tensorzero::function_name::{name}"
            match: dict[str, object] = {"path": self._path("chat/completions"), "model": literal(model)}
            if scope:
                match["headers"] = {"x-namespace": literal(scope)}
                advice = (
                    "let clients send the header 'x-namespace' instead of 'tensorzero::namespace' in the body"
                )
                self._by_hand.add(advice, scopes[scope].path)
            notes = [*own, *self._by_hand.rest(scopes[scope])]
            route = Route(self._names.of(f"{name}-{scope}" if scope else name), match, notes, sticky=True)
            self._fill(route, plan, variants, table)
            yield route

    def _variant(self, table: Table) -> _Variant:
        kind = table.take("type", str) or "chat_completion"
        weight = table.number("weight")
        if kind != "chat_completion":
            self._by_hand.add(_SEVERAL, table.path)
            return _Variant((), [f"of the type {kind}"], weight)
        model = table.take("model", str) or table.fail("there is no 'model'; write one", "model")
        targets = self._providers.of(model, table)
        headers = extra_headers(table, self._by_hand)
        retries = table.table("retries")
        again, delay = int(retries.number("num_retries") or 0), retries.number("max_delay_s")
        if again > _ATTEMPTS:
            self._by_hand.add(f"nothing: a request is retried at most {_ATTEMPTS} times", retries.path)
        limits = Limits.of(table, self._by_hand)
        notes = [*self._by_hand.rest(retries), *self._by_hand.rest(table)]
        return _Variant(
            tuple(replace(target, headers=headers | target.headers) for target in targets),
            notes if targets else [f"no provider of its model {model} can be imported"],
            weight, limits, min(again, _ATTEMPTS), (10.0 if delay is None else delay) if again else 0.0,
        )  # fmt: skip

    def _plan(self, table: Table, variants: Mapping[str, _Variant]) -> _Plan:
        explicit = bool(table.rest())
        kind = table.take("type", str) or "static"
        if kind not in _STATIC + _ADAPTIVE:
            table.fail(f"there is no experiment of the type {kind!r}; write static or adaptive", "type")
        named = table.take("candidate_variants", (list, dict))
        fallback = table.words("fallback_variants")
        weights = named if isinstance(named, dict) else dict.fromkeys(map(str, named or ()), 1.0)
        for name in (*weights, *fallback):
            if name not in variants:
                table.fail_unknown("variant", name, variants)
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e15:
                table.fail(f"the weight of {name!r} is not a number from 0; write one", "candidate_variants")
        if named is None and not fallback:
            given = {name: variant.weight for name, variant in variants.items()}
            if explicit or all(weight is None for weight in given.values()):
                weights = dict.fromkeys(variants, 1.0)
            else:
                weights = {name: weight for name, weight in given.items() if weight is not None}
                fallback = [name for name, weight in given.items() if weight is None]
        bandit = self._bandit(table, len(weights)) if kind in _ADAPTIVE else None
        return _Plan({name: weight for name, weight in weights.items() if weight}, fallback, bandit)

    def _bandit(self, table: Table, candidates: int) -> dict[str, object]:
        metric = table.take("metric", str) or table.fail("there is no 'metric'; write one", "metric")
        if metric not in self._metrics:
            table.fail_unknown("metric", metric, self._metrics, "metric")
        floor, delta = table.number("min_prob"), table.number("delta")
        if floor is not None and floor * candidates > 1:
            table.fail("together this is more than the whole; write less", "min_prob")
        return {
            "type": "bandit",
            "metric": self._metrics[metric][0],
            "floor": min(0.01, 1 / max(1, candidates)) if floor is None else floor,
            "stop": {**({"alpha": min(delta, 0.49)} if delta else {}), "then": "single"},
        }

    def _fill(self, route: Route, plan: _Plan, variants: Mapping[str, _Variant], table: Table) -> None:
        """Add variants, policy, fallback and limits to ``route``."""
        usable = {name for name, variant in variants.items() if variant.targets}
        for name in dict.fromkeys((*plan.weights, *plan.fallback)):
            if name not in usable:
                route.comments.append(f"variant {name} is left out: {variants[name].notes[0]}")
        weights = {name: weight for name, weight in plan.weights.items() if name in usable}
        spare = [name for name in plan.fallback if name in usable and name not in weights]
        if not weights and spare:  # TensorZero, too, then takes the first of them
            weights[spare.pop(0)] = 1.0
        if not weights:
            if not (plan.weights or plan.fallback):
                route.comments.append("no variant has a weight above 0")
            return
        bandit = plan.bandit if len(weights) > 1 else None
        if bandit and (spare or any(len(variants[name].targets) > 1 for name in weights)):
            self._by_hand.add(_SPARE, table.path)
        names, ours, steps = Names(), dict[str, str](), list[str]()
        for name in (*weights, *([] if bandit else spare)):
            variant = variants[name]
            first, *others = variant.targets[:1] if bandit else variant.targets
            ours[name] = names.of(name)
            route.variants.append((ours[name], first, variant.notes))
            for other in others:
                steps.append(names.of(f"{ours[name]}-{other.provider}"))
                route.variants.append((steps[-1], other, []))
            route.limits += [target.limits.within(variant.limits) for target in (first, *others)]
            route.retries, route.delay = max(route.retries, variant.retries), max(route.delay, variant.delay)
        own = [ours[name] for name in weights]
        route.fallback = [*steps, *(own if len(own) > 1 else []), *(ours[n] for n in spare if n in ours)]
        shares = {ours[name]: weight for name, weight in weights.items()}
        split: dict[str, object] = {"type": "split", "weights": shares}
        route.policy = bandit or (split if len(own) > 1 else {"type": "single", "variant": own[0]})
        seen: dict[str, str] = {}
        for name in weights:
            target = variants[name].targets[0]
            same = seen.setdefault(repr((target.backend, target.model, target.headers)), name)
            if same != name:
                self._by_hand.add(_ALIKE, *((*table.path, "variants", one) for one in (same, name)))

    def _direct(self, section: str, what: str, end: str) -> Iterator[Route]:
        """Routes of the models that clients call without a function."""
        for name, targets in self._providers.models[section].items():
            model = literal(f"tensorzero::{what}_name::{name}")
            match: dict[str, object] = {"path": self._path(end), "model": model}
            route = Route(self._names.of(f"{what}-{name}"), match, [])
            names = Names()
            route.variants = [(names.of(target.provider), target, []) for target in targets]
            route.limits = [target.limits for target in targets]
            if targets:
                first, *route.fallback = [variant for variant, *_ in route.variants]
                route.policy = {"type": "single", "variant": first}
            else:
                route.comments.append(f"no provider of the model {name} can be imported")
            yield route

    # The rest -------------------------------------------------------------------------------------------
    def _path(self, end: str) -> str:
        return literal("/".join(["", *([self._base] if self._base else []), "openai/v1", end]))

    def _listen(self) -> list[str]:
        address = self._gateway.take("bind_address", str) or "[::]:3000"
        port = address.rpartition(":")[2]
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            self._gateway.fail("this is not an address; write one such as 0.0.0.0:3000", "bind_address")
        return [
            f"listen: 127.0.0.1:{port}            # TensorZero: {one_line(address)}. 0.0.0.0 serves other machines;",
            "                                  # set 'auth' first: without it every client may infer and report",
        ]

    def _metric_lines(self) -> list[str]:
        lines = [
            "metrics:                          # rewards are accepted in the window, chosen here: TensorZero has none"
        ]
        for name, (ours, table) in self._metrics.items():
            kind = table.take("type", str) or "float"
            if kind not in ("boolean", "float"):
                table.fail(f"there is no metric of the type {kind!r}; write boolean or float", "type")
            entry = {"type": "boolean" if kind == "boolean" else "real"}
            entry["goal"] = "minimize" if table.take("optimize", str) == "min" else "maximize"
            entry["window"] = "1d"
            if about := table.take("description", str):
                entry["description"] = literal(about)
            if ours != name:
                self._by_hand.add(f"report this metric as {ours!r}", table.path)
            episode = table.take("level", str) == "episode"
            lines += comments(self._by_hand.rest(table), "  ")
            note = "    # of an episode: report it once, for one of its responses" if episode else ""
            lines.append(f"  {text(ours)}: {flow(entry)}{note}")
        return [*lines, ""] if self._metrics else []


def _free(name: str) -> str:
    """``name``, or another one where the gateway measures a metric of this name itself."""
    return f"reported-{name}" if observed(name) or name.partition("_")[0] == "latency" else name
