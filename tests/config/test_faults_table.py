"""What is said of broken and of doubtful files."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from gateway.config.faults import MAX_FAULTS
from gateway.config.load import ConfigError, examine, load, render_faults
from tests.config.broken_files import CANARY, GOOD, POLICY, TABLE, A


@pytest.mark.parametrize(("old", "new", "line", "path", "message", "hint"), TABLE)
def test_exactly_this_is_said(old: str, new: str, line: int, path: str, message: str, hint: str) -> None:
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new, 1)
    with pytest.raises(ConfigError) as caught:
        load(text, source="config.yaml", env={})
    said = {(fault.line, fault.path, fault.message, fault.hint) for fault in caught.value.faults}
    assert (line, path, message, hint) in said, render_faults(caught.value.faults)
    # Renaming something also breaks what named it; else there is this one fault alone.
    follow_up = {fault.path for fault in caught.value.faults} - {path}
    assert all("variants.v" in other for other in follow_up), render_faults(caught.value.faults)


def test_the_good_file_is_good() -> None:
    found = examine(GOOD, env={})
    assert found.document is not None
    assert found.warnings == ()


@pytest.mark.parametrize(
    "url", ["https://h:abc/", "https://h:99999/", r"https://ex\u2028ample/", r"https://h/\x7f", "https:///x"]
)
def test_an_address_that_the_client_cannot_call(url: str) -> None:
    """The client's exception for it is none of the usual ones, and ended the loop that called it."""
    hook, keys = (
        examine(text, env={}).faults
        for text in (
            f'webhooks: [{{url: "{url}"}}]',
            f'auth: {{jwt: {{jwks: "{url}", issuer: i, audience: a}}}}',
        )
    )
    assert "this is not the URL of a webhook" in hook[0].message
    assert "this is not an address" in keys[0].message


@pytest.mark.parametrize(
    "place", ["data:,{}", "//id.example.com/keys", "ftp://h/keys", "s3:keys", "https:/h/keys"]
)
def test_a_key_set_is_at_an_address_or_in_a_file(place: str) -> None:
    (fault,) = examine(f'auth: {{jwt: {{jwks: "{place}", issuer: i, audience: a}}}}', env={}).faults[:1]
    assert "neither an https address nor a file" in fault.message


@pytest.mark.parametrize(
    "text",
    [
        "routes:\n" + "".join(f" r{i}: x\n" for i in range(300)),
        "a:\n" + " - ${\n" * 300,
        "backends:\n" + "".join(f" b{i}: {{url: 'http://h'}}\n" for i in range(20)) + "routes:\n r:\n"
        "  match: /r\n  policy: {type: single, variant: v0}\n  variants:\n"
        + "".join(f"   v{i}: {{backend: c{i}}}\n" for i in range(300)),
    ],
)  # fmt: skip
def test_the_number_of_faults_is_bounded(text: str) -> None:
    """Half a million faults of a file of 1 MB held up every request while the response was written."""
    faults = examine(text, env={}).faults
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1].message == "there may be more faults; correct these first"


def test_a_fault_that_repeats_in_one_value_is_said_once() -> None:
    faults = examine("a: '" + "${" * 5000 + "'", env={}).faults
    assert ["begins no variable" in fault.message for fault in faults] == [True]


def test_the_number_of_warnings_is_bounded() -> None:
    text = "backends:\n" + "".join(f" b{i}: {{url: 'http://h'}}\n" for i in range(300))
    assert len(examine(text, env={}).warnings) == MAX_FAULTS


def test_one_fault_hides_no_other() -> None:
    """Faults of every kind, inside one another and side by side, all at once and in the file's order."""
    text = """\
listen: 8080
contrl: 127.0.0.1:1
auth:
  keys:
    - {id: app, hash: "${UNSET}", scopes: [infr, infer], routes: [digit]}
metrics:
  correct: {type: boolean, window: 5}
backends:
  a: {url: "http://127.0.0.1:9101", healht: {}}
  b: {urls: ["ftp://x", "http://x"], health: {path: x, healthy: 0}}
routes:
  digits:
    match: {path: /v2/models/digits}
    variants:
      v1: {backend: a, rewrite: /x}
      v2: {backend: c}
    policy:
      type: canary
      baseline: v1
      candidate: v3
      stages: [{weight: 5, for: 1m}]
      guardrails:
        - {metric: corect, max_decrease: 1%}
        - {metric: correct}
      on_success: promot
    fallback: [v9, {respond: {status: 99}}]
    timeouts: {connect: 1}
  two:
    match: {path: /v2/models/digits}
    variants: {v1: {backend: b}}
    policy: {type: bandti}
    shadows: {v7: 2}
"""
    faults = examine(text, env={}).faults
    assert [(fault.line, fault.path) for fault in faults] == [
        (1, "listen"), (2, "contrl"), (5, "auth.keys[0].hash"), (5, "auth.keys[0].scopes[0]"),
        (7, "metrics.correct.window"), (9, "backends.a.healht"), (10, "backends.b.urls[0]"),
        (10, "backends.b.health.path"), (10, "backends.b.health.healthy"),
        (15, "routes.digits.variants.v1.rewrite"), (16, "routes.digits.variants.v2.backend"),
        (20, "routes.digits.policy.candidate"), (21, "routes.digits.policy.stages[0].weight"),
        (23, "routes.digits.policy.guardrails[0].metric"), (24, "routes.digits.policy.guardrails[1]"),
        (25, "routes.digits.policy.on_success"), (26, "routes.digits.fallback[0]"),
        (26, "routes.digits.fallback[1].respond.status"), (27, "routes.digits.timeouts.connect"),
        (29, "routes.two.match"), (31, "routes.two.policy"), (32, "routes.two.shadows.v7"),
    ]  # fmt: skip


def test_secrets_are_never_shown() -> None:
    text = GOOD.replace(
        "metrics:", "auth: {keys: [{id: '${ID}', hash: '${HASH}', scopes: ['${S}']}]}\nmetrics:", 1
    )
    env = {"ID": "hunter two", "HASH": "hunter2-hash", "S": "hunter2-scope"}
    faults = examine(text, env=env).faults
    assert len(faults) == 3
    assert "hunter" not in render_faults(faults)
    assert "the value of ${S} is not valid for this key" in render_faults(faults)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('url: "http://127.0.0.1:9101"', 'url: "http://h:${S}"'),
        ('url: "http://127.0.0.1:9101"', 'url: "http://h", health: {status: [200, "${S}"]}'),
        ('url: "http://127.0.0.1:9101"', 'url: "http://[${S}]/"'),
        ('url: "http://127.0.0.1:9101"', 'url: "${S}://h"'),
        ("type: split", 'type: "${S}"'),
        ("metrics:", 'auth: {jwt: {issuer: i, audience: a, jwks: "ftp://${S}"}}\nmetrics:'),
        ("metrics:", 'listen: "${S}"\nmetrics:'),
        ("metrics:", 'auth: {keys: [{id: "${S}", hash: "sha256:x", scopes: ["${S}"]}]}\nmetrics:'),
    ],
)
@pytest.mark.parametrize("secret", ["hunter2/seCret", "hunter2\\seCret\n'", "hunter2/seCret" * 9])
def test_no_part_of_a_secret_is_shown_by_any_check(old: str, new: str, secret: str) -> None:
    """S11: libraries quote values in forms of their own, and readers saw them in the log and the events."""
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    faults = examine(text, env={"S": secret}).faults
    said = render_faults(faults) + str([asdict(fault) for fault in faults])
    assert faults
    for part in ("hunter2", "seCret", "secret"):
        assert part not in said, said
    assert "${S}" in said


def test_rendering() -> None:
    text = GOOD.replace("v2: 1}", "v22: 1}")
    faults = examine(text, env={}).faults
    line = "c.yaml:12:44: routes.digits.policy.weights.v22: there is no variant 'v22'; known: v1, v2"
    assert render_faults(faults, source="c.yaml") == line + " (did you mean 'v2'?)"
    with pytest.raises(ConfigError, match=r"^c\.yaml:12:44: "):
        load(text, source="c.yaml", env={})


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ("metrics:", "listen: 0.0.0.0:80\nmetrics:", "listen", "without 'auth' everyone"),
        (A, A + '\n  idle: {url: "http://x:1"}', "backends.idle", "no route uses this backend"),
        ("metrics:\n", "metrics:\n  tokens: {type: count, cap: 9000, usage: output_tokens}\n", "metrics.tokens.usage",
         "no route has 'usage: true'"),
        ("v1: 9, ", "", "routes.digits.variants.v1", "neither policy, shadows nor fallback"),
        (POLICY, CANARY + "}", "routes.digits.policy", "without guardrails nothing stops a bad candidate"),
        (POLICY,
         CANARY.replace("}]", "}, {weight: 1%, for: 1m}]") + ", guardrails: [{metric: correct, max_decrease: 1}]}",
         "routes.digits.policy.stages[1].weight", "weights usually increase"),
        (POLICY, "    policy: {type: split, weights: {v1: 50%, v2: 60%}}", "routes.digits.policy.weights",
         "add up to 1.1 instead of 1, so the shares are v1 45.5%, v2 54.5%; write these"),
        (POLICY, CANARY.replace("1%", "1") + ", guardrails: [{metric: correct, max_decrease: 1}]}",
         "routes.digits.policy.stages[0].weight", "write 1% for one percent"),
        (POLICY, CANARY + ", guardrails: [{metric: error_rate, max_increase: 5}]}",
         "routes.digits.policy.guardrails[0].max_increase", "1 is 100 percentage points: write 5%"),
        ("models/digits}", "models/*}", "routes.digits.match.path", "'/v2/models' matches everything below it"),
        ("/v2/models/digits", '"/v2/models/{name}/infer"', "routes.digits.match.path", "a path has no wildcards"),
        (A, A.replace('"}', '/v2"}'), "routes.digits.variants.v1.backend", "arrive at '/v2/v2/models/digits'"),
        (POLICY, CANARY + ", guardrails: [{metric: correct, max_increase: 1%}]}",
         "routes.digits.policy.guardrails[0]", "an increase of 'correct' is the goal"),
        (POLICY, CANARY + ", guardrails: [{metric: seconds, max_decrease: 1%}]}",
         "routes.digits.policy.guardrails[0]", "a decrease of 'seconds' is the goal"),
        (POLICY, CANARY + ", guardrails: [{metric: seconds, max_relative_decrease: 1%}]}",
         "routes.digits.policy.guardrails[0]", "a decrease of 'seconds' is the goal"),
        (POLICY, "    policy: {type: bandit, metric: correct, floor: 0}", "routes.digits.policy.floor", "mislead"),
        ("metrics:", 'telemetry: {traces: {endpoint: "https://x", tls: {verify: false}}}\nmetrics:',
         "telemetry.traces.tls", "not verified"),
        ("metrics:", 'telemetry: {traces: {endpoint: "http://x", tls: {server_name: y}}}\nmetrics:',
         "telemetry.traces.tls", "has no effect"),
        ("correct: {type: boolean", "correct: {type: boolean, missing: zero", "metrics.correct.missing",
         "enable 'record'"),
        (POLICY, "    policy: {type: bandit, metric: correct, algorithm: linear, features: {f: {header: x-f}}}",
         "routes.digits.policy.metric", "report the zeros of this metric too"),
        (A, '  a: {url: "https://x", tls: {verify: false}}', "routes.digits.variants.v1.backend", "not verified"),
    ],
)  # fmt: skip
def test_warnings_let_the_file_pass(old: str, new: str, path: str, said: str) -> None:
    text = GOOD.replace(old, new, 1)
    if "record" in said:
        text += "record: {enabled: false}\n"
    if "zeros" in said:
        text = text.replace("type: boolean", "type: boolean, missing: zero")
    found = examine(text, env={})
    assert found.document is not None, render_faults(found.faults)
    assert [said in warning.message for warning in found.warnings if warning.path == path] == [True]


@pytest.mark.parametrize(
    ("metric", "warned"),
    [
        ("{type: real}", True),
        ("{type: count}", True),
        ("{type: real, maximum: 9}", True),
        ("{type: real, minimum: 0, maximum: 9}", False),
        ("{type: real, minimum: 0, cap: 9}", False),
        ("{type: count, cap: 9}", False),
        ("{type: boolean}", False),
    ],
)
@pytest.mark.parametrize("use", ["bandit", "guardrail", "nothing"])
def test_a_metric_that_decides_should_have_bounds(metric: str, warned: bool, use: str) -> None:
    """S33: one client's 1e100 is a value like any other."""
    policy = {
        "bandit": "    policy: {type: bandit, metric: correct}",
        "guardrail": CANARY + ", guardrails: [{metric: correct, max_decrease: 0.1}]}",
        "nothing": POLICY,
    }[use]
    text = GOOD.replace("correct: {type: boolean}", f"correct: {metric}").replace(POLICY, policy)
    found = examine(text, env={})
    assert found.document is not None, found.faults
    said = [w.path for w in found.warnings if "a single value of any size" in w.message]
    assert said == (["metrics.correct"] if warned and use != "nothing" else [])
