"""The models of a TensorZero configuration as backends: addresses, credentials, model names and time limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from gateway.commands.toml_file import Table, shown
from gateway.config.model import HeaderValue, SetHeaderName, Url

_ADDRESSES: Final = {
    "anthropic": "https://api.anthropic.com/v1",
    "azure": "",
    "deepseek": "https://api.deepseek.com/v1",
    "fireworks": "https://api.fireworks.ai/inference/v1",
    "google_ai_studio_gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
    "groq": "https://api.groq.com/openai/v1",
    "hyperbolic": "https://api.hyperbolic.xyz/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "sglang": "",
    "tgi": "",
    "together": "https://api.together.xyz/v1",
    "vllm": "http://localhost:8000/v1",
    "xai": "https://api.x.ai/v1",
}
"""Provider type → where its API in OpenAI's shape is; "": the file says it."""
_URL: Final[TypeAdapter[str]] = TypeAdapter(Url)
_HEADER: Final[TypeAdapter[tuple[str, str]]] = TypeAdapter(tuple[SetHeaderName, HeaderValue])
_CREDENTIAL: Final = re.compile("auth|cookie|key|password|secret|token", re.IGNORECASE)
"""Names of headers that may hold a secret."""
_NO_KEY: Final = "none"
"""In place of a client's key, which may be for another provider."""

_PROMPTS: Final = (
    "put the prompt into the messages that the client sends; to compare prompts, give each variant its prompt as "
    "'payload' and let the client ask POST /-/decide (docs/decide.md)"
)
_REQUEST: Final = (
    "send it with the request, in OpenAI's words: the route changes nothing in a body but 'model'"
)
_OWN: Final = "nothing: Turnout has its own"
_ADVICE: Final = {
    "system_template user_template assistant_template system_instructions templates input_wrappers": _PROMPTS,
    "system_schema user_schema assistant_schema schemas": (
        "check the variables of a prompt in the client, which fills it in"
    ),
    "output_schema json_mode": "send 'response_format' with the request",
    "tools tool_choice parallel_tool_calls provider_tools": "send 'tools' and 'tool_choice' with the request",
    "temperature top_p max_tokens presence_penalty frequency_penalty seed stop_sequences reasoning_effort "
    "thinking_budget_tokens verbosity service_tier prompt_mode reasoning_format extra_body": _REQUEST,
    "cost batch_cost": (
        "write 'price: {input: …, output: …}' on the variant, 'usage: true' on the route and a metric with 'usage: "
        "cost' (docs/llm.md)"
    ),
    "evaluators evaluations": "score the responses yourself, and report the score as a metric to /-/feedback",
    "epsilon min_samples_per_variant update_period_s": _OWN
    + " rules for when a bandit looks and stops (docs/configuration/bandit.md)",
    "rate_limiting": (
        "limit requests with 'rate' of an API key (docs/configuration/auth.md), concurrent ones with 'limit' of a "
        "backend; tokens and cost can't be limited"
    ),
    "auth": "make keys with 'turnout keys new' (docs/auth.md)",
    "relay skip_relay": "import the file of the other gateway, which has the providers",
    "observability export debug metrics clickhouse postgres object_storage autopilot cache template_filesystem_access "
    "disable_pseudonymous_usage_analytics": f"{_OWN} store, record, metrics and traces (docs/configuration.md)",
}
_BY_KEY: Final = {key: advice for keys, advice in _ADVICE.items() for key in keys.split()}
_OTHER: Final = "Turnout has nothing like it, or does not know it: docs/configuration.md lists what there is"


class ByHand:
    """What is left to do by hand."""

    def __init__(self) -> None:
        self.keys: dict[str, list[str]] = {}
        """Advice → keys of the file, in its order."""

    def add(self, advice: str, *paths: tuple[str, ...]) -> None:
        keys = self.keys.setdefault(advice, [])
        keys += [key for path in paths if (key := shown(path)) not in keys]

    def rest(self, table: Table) -> list[str]:
        """Add the keys of ``table`` that were not taken; return a comment that names them, if there are any."""
        keys = table.rest()
        for key in keys:
            self.add(_BY_KEY.get(key, _OTHER), (*table.path, key))
        return [f"not imported: {', '.join(shown((key,)) for key in keys)}"] if keys else []


class Names:
    """Names in our letters, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, text: str) -> str:
        """A new name, as like ``text`` as can be."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:56] or "unnamed"
        name, number = plain, 2
        while name in self._taken:
            name, number = f"{plain}-{number}", number + 1
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class Limits:
    """Time limits in milliseconds; None: no limit."""

    whole: float | None = None
    """Until a response that is not streamed."""
    first_token: float | None = None
    stream: float | None = None
    """Until the end of a stream."""

    @classmethod
    def of(cls, table: Table, by_hand: ByHand) -> Limits:
        """What ``table`` says under ``timeouts``, or ``timeout_ms``."""
        timeouts = table.table("timeouts")
        whole, stream = timeouts.table("non_streaming"), timeouts.table("streaming")
        limits = cls(
            whole.number("total_ms") or table.number("timeout_ms") or None,
            stream.number("ttft_ms") or None,
            stream.number("total_ms") or None,
        )
        for part in (timeouts, whole, stream):
            by_hand.rest(part)
        return limits

    def within(self, other: Limits) -> Limits:
        """The shorter of each limit."""
        return Limits(
            _shorter(self.whole, other.whole),
            _shorter(self.first_token, other.first_token),
            _shorter(self.stream, other.stream),
        )


def _shorter(one: float | None, other: float | None) -> float | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


@dataclass(frozen=True)
class Target:
    """One provider of a model: what serves a variant."""

    provider: str
    backend: str
    model: str
    headers: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


class Providers:
    """Backends of the models of a file."""

    def __init__(self, top: Table, by_hand: ByHand) -> None:
        self.backends: dict[str, tuple[str, dict[str, str]]] = {}
        """Name → address and headers."""
        self._by_hand = by_hand
        self._names = Names()
        self._keys: dict[str, object] = {}
        for kind, table in top.tables("provider_types").items():
            defaults = table.table("defaults")
            self._keys[kind] = defaults.take("api_key_location", (str, dict))
            by_hand.rest(defaults)
            by_hand.rest(table)
        self.models = {
            section: {name: self._model(table) for name, table in top.tables(section).items()}
            for section in ("models", "embedding_models")
        }
        """By section: every model with its usable providers, the first choice first."""
        self._shorthand: dict[str, tuple[Target, ...]] = {}

    def of(self, name: str, variant: Table) -> tuple[Target, ...]:
        """The providers of the model that ``variant`` calls ``name``. Raises ConfigError if there is no such model."""
        if name in self.models["models"]:
            return self.models["models"][name]
        kind, separator, model = name.partition("::")
        if not (separator and model):
            variant.fail_unknown("model", name, self.models["models"], "model")
        if name not in self._shorthand:
            here = variant.table("model")  # empty: a short-hand has only defaults
            if model.startswith("responses::"):
                self._responses(here.path)
            target = self._target(here, kind, kind, model.removeprefix("responses::"), Limits())
            self._shorthand[name] = () if target is None else (target,)
        return self._shorthand[name]

    def _model(self, table: Table) -> tuple[Target, ...]:
        limits = Limits.of(table, self._by_hand)
        routing, providers = table.words("routing"), table.tables("providers")
        targets = {}
        for name, provider in providers.items():
            kind = provider.take("type", str) or provider.fail("there is no 'type'; write one", "type")
            key = "deployment_id" if kind == "azure" else "model_name"
            model = provider.take(key, str) or ("tgi" if kind == "tgi" else "")
            if kind in _ADDRESSES and not model:
                provider.fail(f"there is no '{key}'; write one", key)
            limit = limits.within(Limits.of(provider, self._by_hand))
            targets[name] = self._target(provider, name, kind, model, limit)
            self._by_hand.rest(provider)
        for name in routing:
            if name not in targets:
                table.fail_unknown("provider", name, targets, "routing")
        if unrouted := [name for name in targets if name not in routing]:
            advice = "nothing: 'routing' does not name this provider"
            self._by_hand.add(advice, *((*table.path, "providers", name) for name in unrouted))
        self._by_hand.rest(table)
        return tuple(target for name in routing if (target := targets[name]) is not None)

    def _target(self, table: Table, name: str, kind: str, model: str, limits: Limits) -> Target | None:
        if kind not in _ADDRESSES:
            advice = (
                f"put a server with an OpenAI-like API (such as LiteLLM) before a provider of the type {kind!r}, and "
                "add it as a backend and a variant"
            )
            self._by_hand.add(advice, table.path)
            table.drop()
            return None
        given = table.take("endpoint" if kind == "azure" else "api_base", str) or ""
        address = re.sub(r"^env::(\w+)$", r"${\1}", given.replace("${", "$${")) or _ADDRESSES[kind]
        address = address.rstrip("/") + ("/openai/v1" if kind == "azure" else "")
        if not _valid(_URL, re.sub(r"^\$\{\w+\}", "http://a", address)):
            self._by_hand.add("add a backend with the provider's address, and a variant with it", table.path)
            table.drop()
            return None
        headers = self._credential(kind, table)
        if table.take("api_type", str) == "responses":
            self._responses((*table.path, "api_type"))
        extra = extra_headers(table, self._by_hand)
        return Target(name, self._backend(name, address, headers), model, extra, limits)

    def _backend(self, name: str, address: str, headers: dict[str, str]) -> str:
        for existing, backend in self.backends.items():
            if backend == (address, headers):
                return existing
        new = self._names.of(name)
        self.backends[new] = (address, headers)
        return new

    def _credential(self, kind: str, table: Table) -> dict[str, str]:
        """The header with the provider's key; empty where clients send it."""
        location = table.take("api_key_location", (str, dict)) or self._keys.get(kind)
        wanted = location if isinstance(location, dict) else {"default": location}
        places = [place for key in ("default", "fallback") if isinstance(place := wanted.get(key), str)]
        keys = list(map(_key, places or [f"env::{kind.removesuffix('_gemini').upper()}_API_KEY"]))
        fixed, path = [key for key in keys if key], (*table.path, "api_key_location")
        if None in keys:
            advice = "write the key as 'Bearer ${VARIABLE}' or 'Bearer ${file:PATH}' under 'headers' of the backend"
            self._by_hand.add(advice, path)
        if "" in keys:
            advice = (
                "let clients send their own key in the header 'authorization' instead of 'tensorzero::credentials': "
                "every backend of the route without 'headers' gets it, one with 'headers' does not"
            )
            self._by_hand.add(advice, path)
            if not fixed:
                return {}
        if len(fixed) > 1:
            self._by_hand.add("nothing: a backend has one key, the first of these", path)
        # Azure's /openai/v1 takes it so, too: under 'api-key' the client's own 'authorization' would go along.
        return {"authorization": f"Bearer {fixed[0] if fixed else _NO_KEY}"}

    def _responses(self, path: tuple[str, ...]) -> None:
        advice = (
            "clients get the API whose path they call: send Chat Completions, or add a route for /openai/v1/responses "
            "with 'rewrite: {path: /responses}'"
        )
        self._by_hand.add(advice, path)


def _key(place: str) -> str | None:
    """What a `headers` of ours says instead of ``place``; "" if clients send the key; None if that is not known."""
    how, _, name = place.partition("::")
    if how == "env" and re.fullmatch(r"[A-Za-z_]\w*", name):
        return f"${{{name}}}"
    if how == "path" and re.fullmatch(r"[^{}\s]+", name):
        return f"${{file:{name}}}"
    return {"none": _NO_KEY, "dynamic": ""}.get(how)


def extra_headers(table: Table, by_hand: ByHand) -> dict[str, str]:
    """The headers that ``table`` sets on requests to a provider."""
    headers = {}
    entries: Sequence[Any] = table.take("extra_headers", list) or ()
    for entry in entries:
        pair = (entry.get("name"), entry.get("value")) if isinstance(entry, dict) else (None, None)
        if _CREDENTIAL.search(str(pair[0])):
            advice = (
                "write the header with '${VARIABLE}' or '${file:PATH}' under 'headers' of the variant: no secret is "
                "copied"
            )
            by_hand.add(advice, (*table.path, "extra_headers"))
        elif _valid(_HEADER, pair):
            headers[str(pair[0]).lower()] = str(pair[1])
        else:
            advice = (
                "nothing: Turnout sets headers but removes none, and sets none that belongs to the connection"
            )
            by_hand.add(advice, (*table.path, "extra_headers"))
    return headers


def _valid(adapter: TypeAdapter[Any], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
