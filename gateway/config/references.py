"""Checks between sections: names that are declared, shares that add up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config import features
from gateway.config.document import Document, observed
from gateway.config.engine import refusals
from gateway.config.faults import KeyPath, unknown
from gateway.config.kubernetes import KubernetesConfig, engine_faults, weight_refusals
from gateway.config.model import ConfigModel
from gateway.config.policy import (
    BanditConfig,
    BetaPriorConfig,
    CanaryConfig,
    GammaPriorConfig,
    GuardrailConfig,
    NormalPriorConfig,
    SplitConfig,
    named_variants,
)
from gateway.config.route import RouteConfig
from gateway.config.service import PAST
from gateway.config.units import split_address
from policies.contextual.features import MAX_COEFFICIENTS, MAX_COLUMNS
from policies.types import MetricType

_OF_DECISIONS = {"variants", "policy", "unit", "segments", "covariates", "feedback"}
"""What a route says that proxies nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or warning at a key path, without its position in the file."""

    path: KeyPath
    message: str
    hint: str = ""
    of_key: bool = False
    """Whether the key is at fault and not its value."""


@dataclass(frozen=True, slots=True)
class Names:
    """Declared names, including those of faulty sections."""

    backends: tuple[str, ...]
    metrics: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]]
    """By route."""
    covariates: tuple[str, ...]
    """Of all routes."""
    engines: tuple[str, ...]

    @classmethod
    def of(cls, document: Document) -> Names:
        variants = {name: tuple(route.variants) for name, route in document.routes.items()}
        covariates = dict.fromkeys(name for route in document.routes.values() for name in route.covariates)
        engines = tuple(document.engines)
        return cls(tuple(document.backends), tuple(document.metrics), variants, tuple(covariates), engines)


def faults_of(document: Document, names: Names | None = None) -> Iterator[Finding]:
    """Yield all faults between sections, in the order of the sections."""
    names = names or Names.of(document)
    yield from _listeners(document)
    yield from _keys(document, tuple(names.variants))
    yield from _metrics(document, names)
    for at, message in engine_faults(document.engines, document.limits.control_body):
        yield Finding(at, message)
    for name, route in document.routes.items():
        check = _RouteCheck(("routes", name), route, document, names, names.variants[name])
        yield from check.findings()
    yield from _same_matches(document)
    yield from _webhooks(document, tuple(names.variants))


def _listeners(document: Document) -> Iterator[Finding]:
    if document.control is None or document.listen.endswith(":0"):
        return
    here, there = split_address(document.control), split_address(document.listen)
    if here[1] == there[1] and (here[0] == there[0] or {here[0], there[0]} & {"", "0.0.0.0", "::"}):
        message = "this is also the address of 'listen'; write another, or leave 'control' out"
        yield Finding(("control",), message)


def _keys(document: Document, routes: tuple[str, ...]) -> Iterator[Finding]:
    ids: set[str] = set()
    hashes: dict[str, str] = {}
    for index, key in enumerate(document.auth.keys if document.auth else ()):
        here: KeyPath = ("auth", "keys", index)
        if key.id in ids:
            message = f"there is another key with the id '{key.id}'; write a different one"
            yield Finding((*here, "id"), message)
        elif key.hash in hashes:
            message = f"this is the hash of the key '{hashes[key.hash]}' too; generate another key"
            yield Finding((*here, "hash"), message)
        ids.add(key.id)
        hashes.setdefault(key.hash, key.id)
        for place, route in enumerate(key.routes or ()):
            if route not in routes:
                yield Finding((*here, "routes", place), *unknown("route", route, routes))


def _webhooks(document: Document, routes: tuple[str, ...]) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    for index, hook in enumerate(document.webhooks):
        if (hook.format, hook.url) in seen:
            message = "another webhook has the same URL and format; write one with all events"
            yield Finding(("webhooks", index, "url"), message)
        seen.add((hook.format, hook.url))
        for place, route in enumerate(hook.routes):
            if route not in routes:
                yield Finding(("webhooks", index, "routes", place), *unknown("route", route, routes))


def _metrics(document: Document, names: Names) -> Iterator[Finding]:
    for name in document.metrics:
        if observed(name) or name == "latency" or name.startswith("latency_"):
            yield Finding(("metrics", name), f"the gateway measures '{name}' itself; choose another name")
        covariate = document.metrics[name].covariate
        if covariate is not None and covariate not in names.covariates:
            known = (PAST, *names.covariates)
            yield Finding(("metrics", name, "adjust"), *unknown("covariate", covariate, known))


def _same_matches(document: Document) -> Iterator[Finding]:
    seen: dict[object, str] = {}
    for name, route in document.routes.items():
        match, httproute = route.match, document.httproute(name)
        path = match.path.rstrip("/")
        conditions = (route.engine, path, frozenset(match.host), frozenset(match.headers.items()))
        key: object = (*conditions, frozenset(match.methods), frozenset(match.model))
        at, what = "match", "matches exactly the same; write another path or condition"
        if httproute is not None:
            key, at, what = (route.engine, httproute), "httproute", "has the same HTTPRoute; write another"
        elif not route.proxied:
            continue
        if key in seen:
            yield Finding(("routes", name, at), f"the route '{seen[key]}' {what}")
        seen.setdefault(key, name)


@dataclass(frozen=True, slots=True)
class _RouteCheck:
    here: KeyPath
    route: RouteConfig
    document: Document
    names: Names
    variants: tuple[str, ...]

    def findings(self) -> Iterator[Finding]:
        name = self.route.engine
        if name in self.names.engines and name not in self.document.engines and not self.route.proxied:
            return  # what such a route may say depends on the engine, whose section has a fault
        if self.document.httproute(str(self.here[-1])) is not None:
            yield from self._engine()
        elif self.route.proxied:
            yield from self._paths()
            yield from self._variants()
            yield from self._grpc()
            yield from self._engine()
        else:
            yield from self._decisions()
        yield from self._policy()
        decided_by = self.route.policy.features if isinstance(self.route.policy, BanditConfig) else {}
        for at, message in features.refusals(
            self.route.segments, decided_by, self.route.covariates, sticky=self.route.unit is not None
        ):
            yield Finding(self._at(*at), message)
        yield from self._shadows()
        yield from self._fallback()
        yield from self._rest()

    def _at(self, *parts: str | int) -> KeyPath:
        return (*self.here, *parts)

    def _variant(self, name: str, *at: str | int) -> Iterator[Finding]:
        if name not in self.variants:
            yield Finding(self._at(*at), *unknown("variant", name, self.variants), of_key=at[-1] == name)

    def _metric(self, name: str, *at: str | int, by_gateway: bool = False) -> Iterator[Finding]:
        if name not in self.names.metrics and not (by_gateway and observed(name)):
            known = (*self.names.metrics, *(_OBSERVED if by_gateway else ()))
            found = unknown("metric", name, known)
            if observed(name):
                found = f"'{name}' is not reported by clients; write one of the declared metrics", ""
            yield Finding(self._at(*at), *found, of_key=at[-1] == name)

    def _paths(self) -> Iterator[Finding]:
        path = self.route.match.path
        if path == "/-" or path.startswith("/-/"):
            yield Finding(self._at("match", "path"), "'/-/' is reserved for the gateway; write another path")

    def _variants(self) -> Iterator[Finding]:
        for path, backend in self.route.named_backends:
            if not backend:
                message = "write 'backend: ' and the name of one; only without 'match' a variant needs none"
                yield Finding(self._at(*path[:-1]), message, of_key=True)
            elif backend not in self.names.backends:
                yield Finding(self._at(*path), *unknown("backend", backend, self.names.backends))

    def _decisions(self) -> Iterator[Finding]:
        """Faults of a route that only `POST /-/decide` assigns."""
        if any(variant.backend for variant in self.route.variants.values()):
            message = (
                "write for example 'match: {path: /v2/models/NAME}'; without it nothing is proxied, and "
                "variants have no 'backend'"
            )
            yield Finding(self.here, message, of_key=True)
            return
        said = "without 'match' the route proxies nothing; remove this, or write 'match'"
        for key in sorted(self.route.model_fields_set - _OF_DECISIONS):
            yield Finding(self._at(key), said, of_key=True)
        for name, variant in self.route.variants.items():
            for key in sorted(variant.model_fields_set - {"payload"}):
                yield Finding(self._at("variants", name, key), said, of_key=True)
        if self.route.policy.type == "shadow":
            message = (
                "there are no requests to copy without 'match'; write 'single', 'split', 'canary' or 'bandit'"
            )
            yield Finding(self._at("policy", "type"), message)
        if isinstance(self.route.policy, CanaryConfig) and self.route.policy.gate is not None:
            message = "there are no requests to copy without 'match'; remove this"
            yield Finding(self._at("policy", "gate"), message, of_key=True)
        for index, guardrail in enumerate(getattr(self.route.policy, "guardrails", ())):
            if observed(guardrail.metric):
                message = "the gateway sees no responses without 'match'; write a metric that clients report"
                yield Finding(self._at("policy", "guardrails", index, "metric"), message)

    def _grpc(self) -> Iterator[Finding]:
        if self.route.match.grpc is None:
            return
        for name, variant in self.route.variants.items():
            backend = self.document.backends.get(variant.backend)
            if backend is not None and not backend.http2:
                message = f"gRPC needs HTTP/2; write the address of '{variant.backend}' with h2c:// or h2://"
                yield Finding(self._at("variants", name, "backend"), message)
            for key in ("model", "version"):
                if getattr(variant.rewrite, key) is not None:
                    message = (
                        "messages of gRPC are not rewritten; name the model and its version in the request"
                    )
                    yield Finding(self._at("variants", name, "rewrite", key), message)

    def _policy(self) -> Iterator[Finding]:
        policy = self.route.policy
        for path, name in named_variants(policy):
            yield from self._variant(name, "policy", *path)
        if isinstance(policy, SplitConfig) and not any(policy.weights.values()):
            yield Finding(self._at("policy", "weights"), "all weights are 0; write at least one above 0")
        if isinstance(policy, CanaryConfig):
            if policy.baseline == policy.candidate:
                message = "the candidate is the baseline itself; write another variant"
                yield Finding(self._at("policy", "candidate"), message)
            if policy.contest is None:
                yield from self._guardrails(policy.guardrails)
            else:
                pair = (policy.baseline, policy.candidate)
                yield from self._bandit(policy.contest, pair, "policy", "bandit")
        if isinstance(policy, BanditConfig):
            yield from self._bandit(policy, self.variants, "policy")

    def _guardrails(self, guardrails: Iterable[GuardrailConfig]) -> Iterator[Finding]:
        for index, guardrail in enumerate(guardrails):
            yield from self._metric(
                guardrail.metric, "policy", "guardrails", index, "metric", by_gateway=True
            )

    def _bandit(self, policy: BanditConfig, variants: tuple[str, ...], *at: str) -> Iterator[Finding]:
        """Check a bandit section at the key path ``at``."""
        yield from self._guardrails(policy.guardrails)
        for name in policy.metrics:
            yield from self._metric(
                name, *at, *(("metric",) if policy.utility is None else ("utility", name))
            )
        if policy.floor * len(variants) > 1:
            most = 100 / len(variants)
            message = (
                f"a floor of {100 * policy.floor:.4g}% for each of {len(variants)} variants exceeds 100%;"
                f" write {most:.4g}% or less"
            )
            yield Finding(self._at(*at, "floor"), message)
        if policy.features:
            yield from self._features(policy)
        metric = self.document.metrics.get(policy.metric or "")
        if (
            policy.prior is not None
            and metric is not None
            and not isinstance(policy.prior, _PRIORS[metric.type][0])
        ):
            message = f"this prior is not for a metric of type {metric.type}; write {_PRIORS[metric.type][1]}"
            yield Finding(self._at(*at, "prior"), message)

    def _features(self, policy: BanditConfig) -> Iterator[Finding]:
        shadows = self.route.all_shadows
        variants = sum(name not in shadows for name in self.variants)
        most = min(MAX_COLUMNS, MAX_COEFFICIENTS // max(1, variants))
        if policy.columns > most:
            message = (
                f"these features make {policy.columns} columns (a constant, two for each number, one for each "
                f"category) for each of {variants} variants; write features with at most {most}"
            )
            yield Finding(self._at("policy", "features"), message, of_key=True)

    def _shadows(self) -> Iterator[Finding]:
        for name in self.route.shadows:
            yield from self._variant(name, "shadows", name)

    def _fallback(self) -> Iterator[Finding]:
        entries = self.route.fallback
        for index, entry in enumerate(entries):
            if isinstance(entry, str):
                yield from self._variant(entry, "fallback", index)
                if entry in entries[:index]:
                    message = f"'{entry}' is listed twice; remove one of them"
                    yield Finding(self._at("fallback", index), message)
            elif index < len(entries) - 1:
                message = "entries after a fixed response are never tried; write 'respond' last"
                yield Finding(self._at("fallback", index), message)

    def _engine(self) -> Iterator[Finding]:
        name = self.route.engine
        if name is None:
            if self.route.httproute is not None:
                message = "the gateway serves this route; write 'engine' too, or remove it"
                yield Finding(self._at("httproute"), message)
            if self.route.mirror is not None:
                message = (
                    "the gateway serves this route, and copies requests to 'shadows'; write them instead"
                )
                yield Finding(self._at("mirror"), message, of_key=True)
            return
        engine = self.document.engines.get(name)
        if engine is None:
            if name not in self.names.engines:
                yield Finding(self._at("engine"), *unknown("engine", name, self.names.engines))
            return
        found = (
            weight_refusals(self.route, request_ids=self.document.record.request_ids)
            if isinstance(engine, KubernetesConfig)
            else refusals(self.route, self.document.backends, engine.type)
        )
        for path, message in found:
            yield Finding(self._at(*path), message, of_key=True)

    def _rest(self) -> Iterator[Finding]:
        for index, name in enumerate(self.route.feedback or ()):
            yield from self._metric(name, "feedback", index)
        if self.route.hedge is not None and not self.route.retry.replayable:
            message = "a hedge sends a request twice; write 'retry: {replayable: true}' if that is safe"
            yield Finding(self._at("hedge"), message)


def names_in(
    policy: Mapping[str, Any], here: KeyPath, names: Names, variants: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield faults in the names of a policy that is invalid as a whole, given as data."""
    for key in ("variant", "primary", "baseline", "candidate"):
        name = policy.get(key)
        if isinstance(name, str) and name not in variants:
            yield Finding((*here, key), *unknown("variant", name, variants))
    for key in ("weights", "shadows"):
        for name in _keys_of(policy.get(key)):
            if name not in variants:
                yield Finding((*here, key, name), *unknown("variant", name, variants), of_key=True)
    metric = policy.get("metric")
    if isinstance(metric, str) and metric not in names.metrics:
        yield Finding((*here, "metric"), *unknown("metric", metric, names.metrics))
    for name in _keys_of(policy.get("utility")):
        if name not in names.metrics:
            yield Finding((*here, "utility", name), *unknown("metric", name, names.metrics), of_key=True)
    contest = policy.get("bandit")
    if isinstance(contest, dict):
        learns = {key: contest[key] for key in ("metric", "utility") if key in contest}
        yield from names_in(learns, (*here, "bandit"), names, variants)
    guardrails = policy.get("guardrails")
    for index, rail in enumerate(guardrails if isinstance(guardrails, list) else ()):
        name = rail.get("metric") if isinstance(rail, dict) else None
        if isinstance(name, str) and name not in names.metrics and not observed(name):
            path = (*here, "guardrails", index, "metric")
            yield Finding(path, *unknown("metric", name, (*names.metrics, *_OBSERVED)))


def _keys_of(value: object) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, dict) else ()


_OBSERVED = ("error_rate", "client_error_rate", "latency_p50", "latency_p95", "latency_p99")

_PRIORS: Mapping[MetricType, tuple[type[ConfigModel], str]] = {
    "boolean": (BetaPriorConfig, "{alpha, beta}"),
    "fraction": (BetaPriorConfig, "{alpha, beta}"),
    "real": (NormalPriorConfig, "{mean, weight, shape, scale}"),
    "count": (GammaPriorConfig, "{shape, rate}"),
}
"""By type of metric: the section of its prior, and the keys of that."""
