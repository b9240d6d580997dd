"""Warnings: valid but probably unintended options; a document with warnings can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import inf, isinf
from typing import Final

from gateway.config.document import Document
from gateway.config.faults import KeyPath
from gateway.config.policy import (
    BanditConfig,
    CanaryConfig,
    GuardrailConfig,
    SplitConfig,
    bandit_of,
    named_variants,
)
from gateway.config.references import Finding
from gateway.config.route import RouteConfig
from gateway.config.service import PAST
from policies.types import ERROR_RATES

MAX_ROUNDED_AWAY: Final = 0.02
"""What three weights of 33% leave of the whole, and a little more."""


def warnings_of(document: Document) -> Iterator[Finding]:
    """Warnings about ``document``."""
    yield from _open_door(document)
    yield from _traces(document)
    if not document.routes:
        yield Finding((), "there are no routes: every request gets 404; write one under 'routes'")
    used = {backend for route in document.routes.values() for _, backend in route.named_backends}
    for name in document.backends:
        if name not in used:
            yield Finding(
                ("backends", name), "no route uses this backend; name it in a variant, or remove it"
            )
    yield from _untold(document)
    yield from _unfed(document)
    yield from _unbounded(document)
    yield from _unadjusted(document)
    for name, route in document.routes.items():
        for warn in _ROUTE_WARNINGS:
            yield from warn(("routes", name), route, document)


def of_another_gateway(document: Document, own: Document) -> Iterator[str]:
    """A warning for each start-only option whose value differs from the one of this process (``own``)."""
    for key in ("listen", "control", "store", "tls"):
        wanted, here = getattr(document, key), getattr(own, key)
        if (wanted is None) != (here is None) if key == "tls" else wanted != here:
            # A store's address may hold a secret.
            shown = f" ({wanted}, not {here})" if key in ("listen", "control") else ""
            yield (
                f"the configuration in force has another '{key}' than this process{shown}. After an edit of the "
                "file, restart to apply it; if another gateway shares this store by mistake, give each its own 'store'"
            )


def _open_door(document: Document) -> Iterator[Finding]:
    for key in ("listen", "control"):
        address: str | None = getattr(document, key)
        if document.auth is None and address and not address.startswith(("127.", "localhost:", "[::1]")):
            message = (
                "without 'auth' everyone who reaches this address may use every route and read the record; write keys "
                "under 'auth', or an address on 127.0.0.1"
            )
            yield Finding((key,), message)


def _traces(document: Document) -> Iterator[Finding]:
    traces = document.telemetry.traces
    if traces is None or not traces.tls.model_fields_set:
        return
    here = ("telemetry", "traces", "tls")
    if not traces.endpoint.startswith("https:"):
        yield Finding(
            here, "the endpoint is not https, so this has no effect; write an https endpoint, or remove this"
        )
    elif not traces.tls.verify:
        yield Finding(
            here,
            "the endpoint is not verified: an attacker on the network can read all spans; write 'ca: FILE'",
        )


def _untold(document: Document) -> Iterator[Finding]:
    for name, metric in document.metrics.items():
        if metric.missing == "zero" and not document.record.enabled:
            message = (
                "without a record missing values are unknown, so nothing counts as zero; enable 'record'"
            )
            yield Finding(("metrics", name, "missing"), message)


def _unfed(document: Document) -> Iterator[Finding]:
    """Warn of metrics from token counts that no route reads, and of costs without a price."""
    reading = [route for route in document.routes.values() if route.usage]
    priced = any(variant.price is not None for route in reading for variant in route.variants.values())
    for name, metric in document.metrics.items():
        if metric.usage is not None and not reading:
            yield Finding(
                ("metrics", name, "usage"),
                "no route has 'usage: true', so this metric gets no values; write it on a route",
            )
        elif metric.usage == "cost" and not priced:
            message = (
                "no variant of a route with 'usage' has a 'price', so this metric gets no values; write one"
            )
            yield Finding(("metrics", name, "usage"), message)


def _unadjusted(document: Document) -> Iterator[Finding]:
    """Warn of metrics that are adjusted by the past of units where no route has units, or by a covariate that none
    of their routes has."""
    for name, metric in document.metrics.items():
        taking = [r for r in document.routes.values() if r.feedback is None or name in r.feedback]
        if metric.adjust == PAST and all(route.unit is None for route in taking):
            message = "no route with a 'unit' takes this metric, so there is no past; set 'unit' on the route"
            yield Finding(("metrics", name, "adjust"), message)
        elif metric.covariate is not None and all(metric.covariate not in r.covariates for r in taking):
            message = (
                "no route with this covariate takes the metric; write it under the route's 'covariates', or the metric "
                "in its 'feedback'"
            )
            yield Finding(("metrics", name, "adjust"), message)


def _unbounded(document: Document) -> Iterator[Finding]:
    """Warn of unbounded metrics that decide a route: a single client can send any value."""
    deciding: dict[str, str] = {}
    for name, route in document.routes.items():
        bandit = bandit_of(route.policy)
        for metric in (
            *(rail.metric for rail in _guardrails(route)),
            bandit.metric if bandit is not None else None,
        ):
            if metric is not None:
                deciding.setdefault(metric, name)
    for metric, route_name in deciding.items():
        found = document.metrics.get(metric)
        if found is not None and (isinf(found.lowest) or (isinf(found.highest) and found.cap is None)):
            message = (
                f"a single value of any size can decide the route '{route_name}'; write 'minimum' and 'maximum', "
                "or 'cap'"
            )
            yield Finding(("metrics", metric), message)


def _guardrails(route: RouteConfig) -> tuple[GuardrailConfig, ...]:
    return route.policy.guardrails if isinstance(route.policy, CanaryConfig | BanditConfig) else ()


def _unfelt(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    policy = route.policy
    if isinstance(policy, BanditConfig) and policy.algorithm == "linear" and policy.metric is not None:
        metric = document.metrics.get(policy.metric)
        if metric is not None and metric.missing == "zero":
            message = "'linear' learns only from reported values; report the zeros of this metric too"
            yield Finding((*here, "policy", "metric"), message)


def _unused_variants(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    if isinstance(route.policy, BanditConfig):
        return
    named = {name for _, name in named_variants(route.policy)} | set(route.shadows)
    named |= set(route.rescuers)
    for name in route.variants:
        if name not in named:
            yield Finding(
                (*here, "variants", name),
                "neither policy, shadows nor fallback name this variant; name it there, or remove it",
            )


def _stages(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    stages = route.policy.stages if isinstance(route.policy, CanaryConfig) else ()
    if stages and stages[0].weight == 1:
        message = "the first stage gives the candidate all requests: as a number, 1 is 100%; write 1% for one percent"
        yield Finding((*here, "policy", "stages", 0, "weight"), message)
    for index, stage in enumerate(stages[1:], start=1):
        if stage.weight <= stages[index - 1].weight:
            message = f"the weight {100 * stage.weight:g}% is not above the previous stage's; weights usually increase"
            yield Finding((*here, "policy", "stages", index, "weight"), message)


def _unguarded(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    if isinstance(route.policy, CanaryConfig) and not route.policy.guardrails:
        message = (
            "without guardrails nothing stops a bad candidate; write at least one on error_rate, and one on "
            "client_error_rate"
        )
        yield Finding((*here, "policy"), message)


def _guarded_gain(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    for index, rail in enumerate(_guardrails(route)):
        metric = document.metrics.get(rail.metric)
        maximize = metric is not None and metric.goal == "maximize"
        decrease = rail.max_decrease is not None or rail.max_relative_decrease is not None
        if decrease is not maximize:
            direction = "an increase" if maximize else "a decrease"
            message = f"{direction} of '{rail.metric}' is the goal; a guardrail limits the other direction"
            yield Finding((*here, "policy", "guardrails", index), message)


def _unbreachable(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    """Warn of limits that no difference between two variants exceeds, such as ``5`` where 5 % is meant."""
    for index, rail in enumerate(_guardrails(route)):
        metric = document.metrics.get(rail.metric)
        span = (
            1.0 if rail.metric in ERROR_RATES else inf if metric is None else metric.highest - metric.lowest
        )
        for key in ("max_increase", "max_decrease"):
            limit: float | None = getattr(rail, key)
            if limit is not None and limit >= span:
                meant = (
                    f"; as a number, 1 is 100 percentage points: write {limit:g}%"
                    if span == 1
                    else "; write less"
                )
                message = f"'{rail.metric}' can't differ by more than {span:g}, so this never fails{meant}"
                yield Finding((*here, "policy", "guardrails", index, key), message)


def _patterns(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    """Warn of ``/items/*`` and ``/items/{id}``, which match only requests with these characters."""
    prefix, found, _ = route.match.path.partition("/*" if "/*" in route.match.path else "/{")
    if found:
        message = f"a path has no wildcards: '{prefix or '/'}' matches everything below it; write that"
        yield Finding((*here, "match", "path"), message)


def _doubled_path(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    """Warn of a backend's url that repeats the start of the matched path, as base URLs of OpenAI clients do."""
    for name, variant in route.variants.items():
        backend = document.backends.get(variant.backend)
        base = backend.addresses[0].path if backend is not None else ""
        if base and variant.rewrite.path is None and f"{route.match.path}/".startswith(f"{base}/"):
            message = (
                f"requests arrive at '{base}{route.match.path}', because the url of '{variant.backend}' ends with "
                f"'{base}' too; write the url without it"
            )
            yield Finding((*here, "variants", name, "backend"), message)


def _unread_rules(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    for index, rule in enumerate(route.errors.client if route.match.grpc is not None else ()):
        if rule.body:
            message = "a gRPC error has no body, so this rule never applies; remove it, or only its 'body'"
            yield Finding((*here, "errors", "client", index, "body"), message)


def _floorless(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    policy = bandit_of(route.policy)
    if policy is not None and policy.floor == 0:
        message = "with a floor of 0 the intervals of losing variants are misleading; write 1% or more"
        at = () if isinstance(route.policy, BanditConfig) else ("bandit",)
        yield Finding((*here, "policy", *at, "floor"), message)


def _guarded_rows(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    policy = route.policy
    if isinstance(policy, BanditConfig) and policy.features and policy.guardrails:
        message = (
            "with features each variant gets different requests, which also affect the guardrail's metric; choose a "
            "bound with a margin for that"
        )
        yield Finding((*here, "policy", "guardrails"), message, of_key=True)


def _weights(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    """Warn of weights that read as shares and add up to something else: they are relative."""
    weights = route.policy.weights if isinstance(route.policy, SplitConfig) else {}
    total = sum(weights.values())
    if weights and max(weights.values()) < 1 and abs(total - 1) > MAX_ROUNDED_AWAY:
        shares = ", ".join(f"{name} {weight / total:.1%}" for name, weight in islice(weights.items(), 8))
        message = f"the weights add up to {total:.3g} instead of 1, so the shares are {shares}; write these"
        yield Finding((*here, "policy", "weights"), message)


def _unverified(here: KeyPath, route: RouteConfig, document: Document) -> Iterator[Finding]:
    for name, variant in route.variants.items():
        backend = document.backends.get(variant.backend)
        if backend is None or backend.tls.verify:
            continue
        if any(address.secure for address in backend.addresses):
            message = (
                f"'{variant.backend}' is not verified: an attacker on the network can read and change requests; write "
                "its 'ca: FILE' instead of 'verify: false'"
            )
            yield Finding((*here, "variants", name, "backend"), message)


_ROUTE_WARNINGS: tuple[Callable[[KeyPath, RouteConfig, Document], Iterator[Finding]], ...] = (
    _unused_variants,
    _stages,
    _unguarded,
    _guarded_gain,
    _unbreachable,
    _patterns,
    _doubled_path,
    _unread_rules,
    _floorless,
    _unfelt,
    _guarded_rows,
    _weights,
    _unverified,
)
