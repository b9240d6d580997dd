"""``turnout import tensorzero``: what it writes is valid, and says what it leaves out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.config.document import Document
from gateway.config.load import load
from tests.docs.reader import blocks
from tests.support.command import turnout

PAGE = "docs/tensorzero.md"
EMAIL = """
[functions.draft_email]
type = "chat"
[functions.draft_email.variants.mini]
model = "openai::gpt-5-mini"
[functions.draft_email.variants.haiku]
model = "anthropic::claude-haiku-4-5"
[functions.draft_email.variants.grok]
model = "xai::grok-4"
"""
LIKED = '[metrics.liked]\ntype = "boolean"\nlevel = "inference"\noptimize = "max"\n'


def run(folder: Path, *texts: str) -> tuple[str, str]:
    """What the command writes for files with ``texts``, and what it remarks."""
    files = [folder / f"{number}.toml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    ended = turnout("import", "tensorzero", *map(str, files))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def document(text: str) -> Document:
    variables = {name: f"https://{name.lower()}.example" for name in re.findall(r"\$\{(\w+)\}", text)}
    return load(text, source="imported", env=variables)


def refused(folder: Path, text: str) -> str:
    """The one line with which a file is refused, without the directory."""
    (folder / "tensorzero.toml").write_text(text)
    ended = turnout("import", "tensorzero", "tensorzero.toml", cwd=folder)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    return ended.stderr.strip()


# Shapes -------------------------------------------------------------------------------------------------
def test_without_an_experiment_the_variants_share_equally(tmp_path: Path) -> None:
    text, _ = run(tmp_path, EMAIL)
    route = document(text).routes["draft_email"]
    assert route.match.path == "/openai/v1/chat/completions"
    assert route.match.model == ("tensorzero::function_name::draft_email",)
    assert route.unit is not None
    assert route.unit.header == "x-episode-id"
    assert route.policy.model_dump() == {"type": "split", "weights": {"mini": 1, "haiku": 1, "grok": 1}}
    assert route.fallback == ("mini", "haiku", "grok")
    backend = document(text).backends["anthropic"]
    assert str(backend.url) == "https://api.anthropic.com/v1"
    assert backend.headers == {"authorization": "Bearer https://anthropic_api_key.example"}


@pytest.mark.parametrize(
    ("experiment", "weights", "fallback"),
    [
        ('type = "static"\ncandidate_variants = ["mini", "haiku"]', {"mini": 1, "haiku": 1}, ()),
        ('type = "uniform"\ncandidate_variants = ["mini", "haiku"]', {"mini": 1, "haiku": 1}, ()),
        (
            'type = "static"\ncandidate_variants = {mini = 0.9, haiku = 0.1}\nfallback_variants = ["grok"]',
            {"mini": 0.9, "haiku": 0.1},
            ("grok",),
        ),
        (
            'type = "static_weights"\ncandidate_variants = {mini = 5, haiku = 1, grok = 0}',
            {"mini": 5, "haiku": 1},
            (),
        ),
    ],
)
def test_fixed_shares(
    tmp_path: Path, experiment: str, weights: dict[str, float], fallback: tuple[str, ...]
) -> None:
    text, _ = run(tmp_path, f"{EMAIL}[functions.draft_email.experimentation]\n{experiment}\n")
    route = document(text).routes["draft_email"]
    assert route.policy.model_dump() == {"type": "split", "weights": weights}
    assert route.fallback == (*weights, *fallback)


def test_weights_of_older_files(tmp_path: Path) -> None:
    weighted = EMAIL.replace("mini]\n", "mini]\nweight = 0.7\n").replace("haiku]\n", "haiku]\nweight = 0\n")
    text, remarks = run(tmp_path, weighted)
    route = document(text).routes["draft_email"]
    assert route.policy.model_dump() == {"type": "single", "variant": "mini"}
    assert route.fallback == ("grok",)  # without a weight: only if the others fail; with 0: never
    assert "no experiment samples this variant:\n      functions.draft_email.variants.haiku\n" in remarks
    assert "anthropic" not in text.split("# Not imported")[0]


@pytest.mark.parametrize("kind", ["adaptive", "track_and_stop"])
def test_an_adaptive_experiment_is_a_bandit_that_stops(tmp_path: Path, kind: str) -> None:
    experiment = f"""
[functions.draft_email.experimentation]
type = "{kind}"
candidate_variants = ["mini", "haiku"]
fallback_variants = ["grok"]
metric = "liked"
min_prob = 0.1
delta = 0.01
epsilon = 0.05
"""
    text, remarks = run(tmp_path, EMAIL + experiment + LIKED)
    found = document(text)
    policy = found.routes["draft_email"].policy
    assert policy.type == "bandit"
    assert (policy.metric, policy.floor) == ("liked", 0.1)
    assert policy.stop is not None
    assert (policy.stop.alpha, policy.stop.then) == (0.01, "single")
    assert set(found.routes["draft_email"].variants) == {"mini", "haiku"}  # a bandit would give grok a share
    assert (found.metrics["liked"].type, found.metrics["liked"].window) == ("boolean", 86400)
    assert "a bandit gives every variant" in remarks
    assert "functions.draft_email.experimentation.epsilon" in remarks


def test_namespaces_are_routes_with_a_header(tmp_path: Path) -> None:
    experiment = """
[functions.draft_email.experimentation]
type = "static"
candidate_variants = ["mini", "haiku"]
[functions.draft_email.experimentation.namespaces.acme_corp]
type = "static"
candidate_variants = {grok = 1.0}
"""
    text, remarks = run(tmp_path, EMAIL + experiment)
    routes = document(text).routes
    assert routes["draft_email-acme_corp"].match.headers == {"x-namespace": "acme_corp"}
    assert set(routes["draft_email"].variants) == {"mini", "haiku"}
    assert "'x-namespace' instead of 'tensorzero::namespace'" in remarks


def test_providers_of_a_model_step_in_for_each_other(tmp_path: Path) -> None:
    text, remarks = run(
        tmp_path,
        """
[provider_types.openai.defaults]
api_key_location = "env::TEAM_KEY"
[models.gpt]
routing = ["openai", "azure", "own", "bedrock"]
timeouts = { non_streaming.total_ms = 15000, streaming.ttft_ms = 3000, streaming.total_ms = 60000 }
[models.gpt.providers]
azure = { type = "azure", deployment_id = "mini", endpoint = "env::AZURE_ENDPOINT" }
bedrock = { type = "aws_bedrock", model_id = "anthropic.claude" }
[models.gpt.providers.openai]
type = "openai"
model_name = "gpt-5-mini"
extra_headers = [{ name = "X-Team", value = "a${b}" }, { name = "x-old", delete = true }]
cost = [{ pointer = "/usage/prompt_tokens", cost_per_million = 2.5 }]
[models.gpt.providers.own]
type = "vllm"
api_base = "http://localhost:8000/v1/"
model_name = "microsoft/phi"
api_key_location = "none"
timeouts = { non_streaming.total_ms = 2500 }
[functions.f.variants."v/1"]
model = "gpt"
retries = { num_retries = 3, max_delay_s = 4 }
extra_headers = [{ name = "x-v", value = "1" }]
""",
    )
    found = document(text)
    route = found.routes["f"]
    assert list(route.variants) == ["v-1", "v-1-azure", "v-1-own"]
    assert route.policy.model_dump() == {"type": "single", "variant": "v-1"}
    assert route.fallback == ("v-1-azure", "v-1-own")
    assert {408, 429, 500, 529} <= route.fallback_on.status
    assert 400 not in route.fallback_on.status
    assert route.variants["v-1"].headers == {"x-v": "1", "x-team": "a${b}"}
    assert [v.rewrite.model for v in route.variants.values()] == ["gpt-5-mini", "mini", "microsoft/phi"]
    assert str(found.backends["azure"].url) == "https://azure_endpoint.example/openai/v1"
    assert str(found.backends["own"].url) == "http://localhost:8000/v1"
    keys = {name: backend.headers["authorization"] for name, backend in found.backends.items()}
    assert keys == {
        "openai": "Bearer https://team_key.example",
        "azure": "Bearer https://azure_api_key.example",
        "own": "Bearer none",
    }
    assert (route.retry.attempts, route.retry.replayable, route.retry.backoff.max) == (4, True, 4)
    assert (route.timeouts.first_byte, route.timeouts.total) == (
        15,
        13 * 60,
    )  # 3 (4 · 60 s + 3 · 4 s), in minutes
    assert "TensorZero waits 3s for the first token" in text
    assert found.routes["model-gpt"].match.model == ("tensorzero::model_name::gpt",)
    for key in ("openai.extra_headers", "openai.cost", "bedrock"):
        assert f"models.gpt.providers.{key}" in remarks
    assert "AZURE_API_KEY, AZURE_ENDPOINT, TEAM_KEY" in remarks


def test_credentials(tmp_path: Path) -> None:
    model = """
[models.{name}]
routing = ["p"]
providers.p = {{ type = "groq", model_name = "m", api_key_location = {place} }}
"""
    places = {
        "own": '"dynamic::groq_key"',
        "either": '{ default = "dynamic::groq_key", fallback = "env::SPARE" }',
        "both": '{ default = "env::FIRST", fallback = "env::SECOND" }',
        "file": '"path::/run/secrets/groq"',
        "open": '"none"',
        "typed": '"sk-1234567890"',  # not a place: no key of a client is passed on instead
    }
    text, remarks = run(tmp_path, "".join(model.format(name=n, place=p) for n, p in places.items()))
    written = re.findall(r'groq.com/openai/v1"(.*)}$', text, re.MULTILINE)
    keys = ("${SPARE}", "${FIRST}", "${file:/run/secrets/groq}", "none")
    assert written == ["", *(f', headers: {{authorization: "Bearer {key}"}}' for key in keys)]
    assert text.count("backend: p-5, rewrite: {path: /chat/completions, model: m}") == 2  # open and typed
    assert "sk-1234567890" not in text + remarks
    left = " ".join(remarks.split())
    assert "let clients send their own key in the header 'authorization'" in left
    assert "one key, the first of these: models.both.providers.p.api_key_location" in left
    assert "under 'headers' of the backend: models.typed.providers.p.api_key_location" in left


def test_no_secret_of_a_header_is_copied(tmp_path: Path) -> None:
    headers = '[{ name = "X-Api-Key", value = "sk-123" }, { name = "authorization", value = "sk-456" }]'
    text, remarks = run(tmp_path, EMAIL.replace("grok]\n", f"grok]\nextra_headers = {headers}\n"))
    assert "sk-" not in text + remarks
    assert "no secret is copied:\n      functions.draft_email.variants.grok.extra_headers\n" in remarks


def test_the_retries_of_a_function_fit_into_its_time(tmp_path: Path) -> None:
    limits = "timeouts.non_streaming.total_ms = 2000\ntimeouts.streaming.total_ms = 2000\nretries.num_retries = 2\n"
    text, _ = run(
        tmp_path, f"[functions.f.variants.v]\nmodel = 'openai::x'\n{limits}retries.max_delay_s = 1\n"
    )
    route = document(text).routes["f"]
    assert (route.retry.attempts, route.timeouts.first_byte, route.timeouts.total) == (3, 2, 3 * 2 + 2)


def test_what_has_no_counterpart_is_named_with_what_to_do(tmp_path: Path) -> None:
    text, remarks = run(
        tmp_path,
        """
[gateway]
bind_address = "0.0.0.0\\ncontrol: 0.0.0.0:9\\n#:4000"
base_path = "/llm/"
auth.enabled = true
observability.enabled = true
[tools.search]
description = "Searches"
parameters = "tools/search.json"
[[rate_limiting.rules]]
always = true
tokens_per_minute = 10
[functions.extract]
type = "json"
description = "Extracts\\nnames"
output_schema = "output.json"
user_schema = "user.json"
tools = ["search"]
[functions.extract.variants.good]
type = "chat_completion"
model = "openai::gpt-5-mini"
templates.system.path = "good.minijinja"
json_mode = "strict"
temperature = 0.2
brand_new = 1
[functions.extract.variants.bad]
type = "chat_completion"
model = "openai::gpt-5-mini"
system_template = "bad.minijinja"
[functions.extract.variants.best]
type = "experimental_best_of_n"
candidates = ["good", "bad"]
[functions.extract.variants.dicl]
type = "experimental_dynamic_in_context_learning"
model = "openai::gpt-5-mini"
embedding_model = "e"
k = 3
[functions.extract.evaluators.exact]
type = "exact_match"
[evaluations]
e.type = "inference"
[embedding_models.e]
routing = ["openai"]
providers.openai = { type = "openai", model_name = "text-embedding-3-small" }
[metrics]
latency_s = { type = "float", optimize = "min", level = "episode" }
""",
    )
    found = document(text)
    assert (found.listen, found.control) == ("127.0.0.1:4000", None)
    assert found.routes["extract"].match.path == "/llm/openai/v1/chat/completions"
    assert found.routes["embedding_model-e"].match.path == "/llm/openai/v1/embeddings"
    assert found.metrics["reported-latency_s"].goal == "minimize"
    assert "# not imported: templates, json_mode, temperature, brand_new\n      good:" in text
    assert "# variant best is left out: of the type experimental_best_of_n\n" in text
    assert "# of an episode: report it once" in text
    listed = dict(re.findall(r"- (.*?):\n +(\S.*?)(?=\n  - |\n?\Z)", remarks, re.DOTALL))
    advice = {key: " ".join(what.split()) for what, keys in listed.items() for key in re.split(r",\s+", keys)}
    function = "functions.extract"
    for key, wanted in {
        "gateway.auth": "turnout keys new",
        "gateway.observability": "its own store",
        "tools": "send 'tools'",
        "rate_limiting": "'rate' of an API key",
        f"{function}.output_schema": "response_format",
        f"{function}.user_schema": "in the client",
        f"{function}.tools": "send 'tools'",
        f"{function}.variants.good.templates": "POST /-/decide",
        f"{function}.variants.bad.system_template": "POST /-/decide",
        f"{function}.variants.good.json_mode": "response_format",
        f"{function}.variants.good.temperature": "with the request",
        f"{function}.variants.good.brand_new": "does not know it",
        f"{function}.variants.best": "several times",
        f"{function}.variants.dicl": "several times",
        f"{function}.variants.good": "the same request",
        f"{function}.evaluators": "as a metric",
        "evaluations": "as a metric",
        "metrics.latency_s": "'reported-latency_s'",
    }.items():
        assert wanted in advice[key], key


def test_several_files_are_one(tmp_path: Path) -> None:
    model = '[models.m]\nrouting = ["p"]\n[models.m.providers.p]\ntype = "groq"\nmodel_name = "m"\n'
    variant = '[functions.f.variants.v]\ntype = "chat_completion"\nmodel = "m"\n'
    text, _ = run(tmp_path, variant, '[functions.f]\ntype = "chat"\n', model)
    assert list(document(text).routes) == ["f", "model-m"]
    ended = turnout("import", "tensorzero", "0.toml", "2.toml", "2.toml", cwd=tmp_path)
    assert (
        ended.stderr
        == "2.toml:2:1: models.m.routing: two of the files have this key; leave one of them out\n"
    )


def test_strange_names_and_texts_stay_what_they_are(tmp_path: Path) -> None:
    text, _ = run(
        tmp_path,
        """
[functions."a b${HOME}"]
description = "${HOME}\\u0007: #"
[functions."a b${HOME}".variants.true]
model = "openai::ft:gpt::${X}"
[functions."a b${HOME}".variants."3"]
model = "openai::null"
[functions.a-b]
[functions.a-b.variants."é"]
model = "openai::x"
[metrics.m]
type = "float"
description = "${HOME}: 'a' \\"b\\" #\\u007f\\u0085\\u2028\\uffff\\U0001f600"
""",
    )
    found = document(text)
    assert found.metrics["m"].description == "${HOME}: 'a' \"b\" #\x7f\x85\u2028\uffff😀"
    assert found.routes["a-b-HOME"].match.model == ("tensorzero::function_name::a b${HOME}",)
    assert [v.rewrite.model for v in found.routes["a-b-HOME"].variants.values()] == ["ft:gpt::${X}", "null"]
    assert list(found.routes["a-b-HOME"].variants) == ["true", "3"]
    assert list(found.routes["a-b"].variants) == ["unnamed"]
    assert "\a" not in text


def test_the_page_shows_what_is_written(tmp_path: Path) -> None:
    text, _ = run(tmp_path, *blocks(PAGE, "toml"))
    assert blocks(PAGE, "yaml") == [text]


# Files that are refused -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[functions.f\n", ":1:13: this is not TOML"),
        ("a = 1\nb = [1,\n", ":3:1: this is not TOML"),
        ("a = " + "[" * 5000, ": this is not a configuration"),
        ("functions = 3\n", ":1:1: functions: this is not a table; write one"),
        ("[models.m]\nrouting = 'p'\n", ":2:1: models.m.routing: this is not a list; write one"),
        ("[models.m]\nrouting = ['p']\n", ":2:1: models.m.routing: there is no provider 'p'; there are none"),
        ("[functions.f]\ntype = 'chat'\n", ":1:1: functions.f: this function has no variants"),
        (
            "[functions.f.variants.v]\ntype = 'chat_completion'\n",
            ":1:1: functions.f.variants.v.model: there is no 'model'; write one",
        ),
        (
            "[functions.f.variants.v]\nmodel = 'gtp'\n[models.gpt]\nrouting = []\n",
            ":2:1: functions.f.variants.v.model: there is no model 'gtp'; known: gpt (did you mean 'gpt'?)",
        ),
        (
            f"{EMAIL}[functions.draft_email.experimentation]\ntype = 'adaptive'\ncandidate_variants = ['mini']\n",
            ":10:1: functions.draft_email.experimentation.metric: there is no 'metric'; write one",
        ),
        (
            f"{EMAIL}[functions.draft_email.experimentation]\ncandidate_variants = ['mine']\n",
            ":10:1: functions.draft_email.experimentation: there is no variant 'mine'",
        ),
        (
            f"{EMAIL}[functions.draft_email.experimentation]\ncandidate_variants = {{mini = -1}}\n",
            ":11:1: functions.draft_email.experimentation.candidate_variants: the weight of 'mini'",
        ),
        (
            f"{EMAIL}[functions.draft_email.variants.mini.timeouts]\nstreaming.ttft_ms = 'x'\n",
            ":11:1: functions.draft_email.variants.mini.timeouts.streaming.ttft_ms: this is not a number",
        ),
        (f"{EMAIL}[gateway]\nbind_address = 'x'\n", ":11:1: gateway.bind_address: this is not an address"),
        ("[gateway]\ndebug = true\n", ": there is nothing to import"),
        ("", ": there is nothing to import"),
    ],
    ids=lambda value: value[:48] if value.startswith(":") else "",
)
def test_a_broken_file_gets_one_error_with_its_line(tmp_path: Path, text: str, wanted: str) -> None:
    assert refused(tmp_path, text).startswith(f"tensorzero.toml{wanted}")


def test_files_are_not_replaced_without_force(tmp_path: Path) -> None:
    (tmp_path / "tensorzero.toml").write_text(EMAIL)
    words = ("import", "tensorzero", "tensorzero.toml", "--out", "turnout.yaml")
    assert turnout(*words, cwd=tmp_path).returncode == 0
    before = (tmp_path / "turnout.yaml").read_text()
    keys = {f"{name}_API_KEY": "k" for name in ("OPENAI", "ANTHROPIC", "XAI")}
    checked = turnout("check", cwd=tmp_path, env=keys)
    assert (checked.returncode, checked.stdout) == (
        0, "turnout.yaml: valid, 1 route, 3 backends, 0 metrics\n"
    )  # fmt: skip
    assert (tmp_path / "turnout.schema.json").exists()
    (tmp_path / "turnout.yaml").write_text("mine")
    again = turnout(*words, cwd=tmp_path)
    assert (again.returncode, (tmp_path / "turnout.yaml").read_text()) == (1, "mine")
    assert "--force" in again.stderr
    assert turnout(*words, "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "turnout.yaml").read_text() == before
    for own in ("tensorzero.toml", str(tmp_path / "tensorzero.toml")):
        refusal = turnout(*words[:3], "--out", own, "--force", cwd=tmp_path)
        assert (refusal.returncode, (tmp_path / "tensorzero.toml").read_text()) == (1, EMAIL)
    files = sorted(tmp_path.iterdir())
    assert turnout(*words[:3], "--out", "-", cwd=tmp_path).stdout == before
    assert turnout(*words[:3], "--out", "no/turnout.yaml", cwd=tmp_path).returncode == 1
    assert sorted(tmp_path.iterdir()) == files


def test_json(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(EMAIL.replace("mini]\n", "mini]\ntemperature = 1\n"))
    ended = turnout("import", "tensorzero", str(tmp_path / "t.toml"), "--json")
    found = json.loads(ended.stdout)
    assert ended.stderr == ""
    assert found["variables"] == ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "XAI_API_KEY"]
    assert [entry["keys"] for entry in found["by_hand"]] == [
        ["functions.draft_email.variants.mini.temperature"]
    ]
    assert document(found["text"]).routes
