"""Broken files, and exactly what is said of each: line, key path, message, hint."""
# ruff: noqa: E501  # a row of the table is one line of thought

from __future__ import annotations

GOOD = """\
metrics:
  correct: {type: boolean}
  seconds: {type: real, goal: minimize}
backends:
  a: {url: "http://127.0.0.1:9101"}
routes:
  digits:
    match: {path: /v2/models/digits}
    variants:
      v1: {backend: a}
      v2: {backend: a}
    policy: {type: split, weights: {v1: 9, v2: 1}}
"""
LINEAR = "    policy: {type: bandit, algorithm: linear, metric: correct, "
CANARY = "    policy: {type: canary, baseline: v1, candidate: v2, stages: [{weight: 1%, for: 1m}]"

BOUNDS = (
    "write exactly one of 'max_increase', 'max_decrease', 'max_ratio', 'max_relative_increase' and "
    "'max_relative_decrease'"
)
POLICY = "    policy: {type: split, weights: {v1: 9, v2: 1}}"
A = '  a: {url: "http://127.0.0.1:9101"}'
END = "\n"
Row = tuple[str, str, int, str, str, str]
"""What to replace, by what, line, path, message, hint."""

WITHOUT_MATCH = "without 'match' the route proxies nothing; remove this, or write 'match'"


def row(old: str, new: str, line: int, path: str, message: str, hint: str = "") -> Row:
    return old, new, line, path, message, hint


def below(text: str, path: str, message: str, hint: str = "") -> Row:
    """A line of the route behind its policy; ``path`` begins at the route."""
    return POLICY, f"{POLICY}\n    {text}", 13, f"routes.digits.{path}", message, hint


def above(text: str, path: str, message: str, hint: str = "") -> Row:
    """A line of the route before its policy."""
    return POLICY, f"    {text}\n{POLICY}", 12, f"routes.digits.{path}", message, hint


def policy(text: str, path: str, message: str, hint: str = "") -> Row:
    """Another policy; ``path`` begins at the policy."""
    return POLICY, f"    policy: {text}", 12, f"routes.digits.policy.{path}".rstrip("."), message, hint


def canary(text: str, path: str, message: str, hint: str = "") -> Row:
    return policy(CANARY.removeprefix("    policy: ") + text, path, message, hint)


def linear(text: str, path: str, message: str, hint: str = "") -> Row:
    return policy(LINEAR.removeprefix("    policy: ") + text, path, message, hint)


def first(text: str, path: str, message: str, hint: str = "") -> Row:
    """A first line of the file."""
    return "metrics:", f"{text}\nmetrics:", 1, path, message, hint


def backend(text: str, path: str, message: str, hint: str = "") -> Row:
    """Another backend; ``path`` begins at the backend."""
    return A, f"  a: {text}", 5, f"backends.a.{path}".rstrip("."), message, hint


def metric(text: str, path: str, message: str, hint: str = "") -> Row:
    """Another metric; ``path`` begins at the metric."""
    return "type: boolean", text, 2, f"metrics.correct.{path}".rstrip("."), message, hint


TABLE = [
    below("unit: {header: x-user, json_: a}", "unit.json_",
          "there is no key 'json_'; known: cookie, header, json, principal, query", "did you mean 'json'?"),
    below("comparison: {ignore: ['*']}", "comparison",
          "'ignore: *' leaves nothing to compare; name the keys to ignore"),
    # gRPC
    row("match: {path: /v2/models/digits}", "match: {grpc: a.B}", 10, "routes.digits.variants.v1.backend",
        "gRPC needs HTTP/2; write the address of 'a' with h2c:// or h2://"),
    backend('{url: "http://127.0.0.1:9101", health: {grpc: ""}}', "",
            "'health.grpc' needs HTTP/2; write the address with h2c:// or h2://"),
    # Names that lead nowhere
    row(POLICY, CANARY.replace("candidate: v2", "candidate: v3") + "}", 12, "routes.digits.policy.candidate",
        "there is no variant 'v3'; known: v1, v2"),
    row(POLICY, CANARY.replace("candidate: v2", "candidate: v1") + "}", 12, "routes.digits.policy.candidate",
        "the candidate is the baseline itself; write another variant"),
    policy("{type: single, variant: v9}", "variant", "there is no variant 'v9'; known: v1, v2"),
    policy("{type: split, weights: {v1: 9, other: 1}}", "weights.other", "there is no variant 'other'; known: v1, v2"),
    policy("{type: shadow, primary: v1, shadows: {x: 5%}}", "shadows.x", "there is no variant 'x'; known: v1, v2"),
    below("shadows: {v22: 5%}", "shadows.v22", "there is no variant 'v22'; known: v1, v2", "did you mean 'v2'?"),
    below("fallback: [v1, nobody]", "fallback[1]", "there is no variant 'nobody'; known: v1, v2"),
    below("fallback: [v1, v1]", "fallback[1]", "'v1' is listed twice; remove one of them"),
    below("fallback: [{respond: {status: 200}}, v1]", "fallback[0]",
          "entries after a fixed response are never tried; write 'respond' last"),
    below("fallback_on: {status: [204, 503]}", "fallback_on.status",
          "a response with 204 is not a failure; write statuses from 400 to 599"),
    row("v2: {backend: a}", "v2: {backend: aa}", 11, "routes.digits.variants.v2.backend",
        "there is no backend 'aa'; known: a", "did you mean 'a'?"),
    policy("{type: bandit, metric: corect}", "metric",
           "there is no metric 'corect'; known: correct, seconds", "did you mean 'correct'?"),
    policy("{type: bandit, metric: error_rate}", "metric",
           "'error_rate' is not reported by clients; write one of the declared metrics"),
    policy("{type: bandit, utility: {correct: 1, cost: 1}}", "utility.cost",
           "there is no metric 'cost'; known: correct, seconds"),
    canary(", guardrails: [{metric: latency_p0, max_ratio: 2}]}", "guardrails[0].metric",
           "there is no metric 'latency_p0'; known: correct, seconds, error_rate, client_error_rate, latency_p50, latency_p95, latency_p99", "did you mean 'latency_p50'?"),
    below("feedback: [x]", "feedback[0]", "there is no metric 'x'; known: correct, seconds"),
    row("metrics:",
        "auth: {keys: [{id: k, hash: 'sha256:" + "0" * 64 + "', scopes: [infer], routes: [digit]}]}\nmetrics:", 1, "auth.keys[0].routes[0]",
        "there is no route 'digit'; known: digits", "did you mean 'digits'?"),
    # Shares and numbers that don't add up
    policy("{type: split, weights: {v1: 0, v2: 0%}}", "weights", "all weights are 0; write at least one above 0"),
    policy("{type: bandit, metric: correct, floor: 51%}", "floor",
           "a floor of 51% for each of 2 variants exceeds 100%; write 50% or less"),
    policy("{type: bandit, metric: correct, prior: {alpha: 0.0001}}", "prior.alpha",
           "0.0001 is too small; write at least 0.001"),
    policy("{type: bandit, metric: correct, prior: {mean: 0, shape: 0.5}}", "prior.shape",
           "0.5 is too small; write more than 0.5"),
    policy("{type: bandit, metric: correct, prior: {mean: -1.0e+101}}", "prior.mean",
           "-1e+101 is too small; write at least -1e+100"),
    policy("{type: bandit, utility: {correct: 1.0e-51}}", "utility.correct",
           "1e-51 is too small; write at least 1e-50"),
    policy("{type: bandit, metric: correct, prior: {shape: 2}}", "prior",
           "this prior is not for a metric of type boolean; write {alpha, beta}"),
    row(POLICY, CANARY.replace("1%", "5") + "}", 12, "routes.digits.policy.stages[0].weight",
        "5 is more than the whole; write 5%"),
    row(POLICY, CANARY.replace(", for: 1m", "") + "}", 12, "routes.digits.policy.stages[0]",
        "this stage would end immediately; write 'for', 'min_samples' or both"),
    row(POLICY, CANARY.replace("[{weight: 1%, for: 1m}]", "[]") + "}", 12, "routes.digits.policy.stages",
        "a list is too short; write at least 1"),
    row(POLICY, CANARY.replace("for: 1m", "for: 1m, confirm: true") + "}", 12, "routes.digits.policy",
        "nothing comes before the first stage, so it can't wait for a person; leave 'confirm' out, or add a 'gate' "
        "that it follows"),
    # Guardrails
    canary(", guardrails: [{metric: correct}]}", "guardrails[0]", BOUNDS),
    canary(", guardrails: [{metric: correct, max_decrease: 1%, max_ratio: 1}]}", "guardrails[0]", BOUNDS),
    canary(", guardrails: [{metric: latency_p99, max_increase: 5%}]}", "guardrails[0]",
           "'max_increase' of a latency is a time; write it as 20ms, or write 'max_ratio: 1.2'"),
    policy("{type: bandit, metric: correct, guardrails: [{metric: error_rate, max_ratio: 2}]}", "",
           "guardrails compare with a baseline; write 'baseline: VARIANT'"),
    policy("{type: bandit, metric: correct, utility: {correct: 1}}", "", "write exactly one of 'metric' and 'utility'"),
    policy("{type: bandit, metric: correct, algorithm: linear}", "",
           "'features' and 'algorithm: linear' need each other; write both or neither"),
    # Features
    linear("features: {t: {header: x-t, json: a.b}}}", "features.t", "write exactly one of 'header' and 'json'"),
    linear("features: {t: {json: a, values: [x, y], minimum: 3, maximum: 4}}}", "features.t",
           "categories have no range; leave 'minimum' and 'maximum' out, or 'values'"),
    linear("features: {t: {json: a, values: [x, x]}}}", "features.t.values",
           "'values' lists a category twice; write each once"),
    linear("stop: {}, features: {t: {json: a}}}", "",
           "with features there is no single winner: which variant is best depends on the request; leave 'stop' out"),
    linear("prior: {alpha: 2}, features: {t: {json: a}}}", "",
           "'algorithm: linear' has a prior of its own; leave 'prior' out"),
    row(POLICY,
        LINEAR.replace("metric: correct", "utility: {correct: 1}") + "features: {t: {json: a}}}", 12, "routes.digits.policy",
        "'algorithm: linear' learns from one metric; write 'metric' instead of 'utility'"),
    row(POLICY,
        LINEAR + "features: {t: {json: a}, c: {json: b, values: [" + ", ".join(f"v{k}" for k in range(30)) + "]}}}", 12, "routes.digits.policy.features",
        "these features make 33 columns (a constant, two for each number, one for each category) for each of 2 variants; write features with at most 32"),
    above("segments: {t: {values: [a]}}", "segments.t", "write exactly one of 'header' and 'json'"),
    above("segments: {t: {json: a}}", "segments.t.values", "the key 'values' is missing; write it"),
    above("segments: {t: {json: a, values: [x, x]}}", "segments.t.values",
          "'values' lists a category twice; write each once"),
    above("segments: {t: {header: Host, values: [x]}}", "segments.t.header",
          "'host' is a field that the gateway itself acts on; write another header"),
    row(POLICY,
        "    segments: {t: {json: a, values: [" + ", ".join(f"v{k}" for k in range(24)) + "]}}\n" + POLICY, 12, "routes.digits.segments",
        "these are 25 segments, one for each value and one for all others of each feature; write at most 24"),
    row(POLICY,
        "    segments: {t: {json: a, values: [x]}}\n" + LINEAR + "features: {t: {json: a}}}", 12, "routes.digits.segments",
        "the policy's 'features' make segments already; remove 'segments'"),
    linear("features: {t: {header: X-Variant}}}", "features.t.header",
           "'x-variant' is a field that the gateway itself acts on; write another header"),
    # A text in place of a mapping
    row("match: {path: /v2/models/digits}", "match: /v2/models/digits", 8, "routes.digits.match",
        "'/v2/models/digits' is not a mapping of keys to values", "write {path: /v2/models/digits}"),
    policy("single", "", "'single' is not a mapping of keys to values", "write {type: single}"),
    row("v2: {backend: a}", "v2: a", 11, "routes.digits.variants.v2",
        "'a' is not a mapping of keys to values", "write {backend: a}"),
    backend('"http://127.0.0.1:9101"', "",
            "'http://127.0.0.1:9101' is not a mapping of keys to values", "write {url: http://127.0.0.1:9101}"),
    above("unit: x-user-id", "unit", "'x-user-id' is not a mapping of keys to values", "write {header: x-user-id}"),
    above("timeouts: 2s", "timeouts", "'2s' is not a mapping of keys to values",
          "write for example 'timeouts: {first_byte: 2s}'"),
    above("shadows: [v2]", "shadows", "a list is not a mapping of keys to values",
          "write for example 'shadows: {v2: 5%}'"),
    row("      v1: {backend: a}\n      v2: {backend: a}\n", "      - {name: v1, backend: a}\n", 9, "routes.digits.variants",
        "a list is not a mapping of keys to values", "write for example 'variants: {v1: {backend: NAME}}'"),
    policy("{type: split, weights: [50, 50]}", "weights", "a list is not a mapping of keys to values",
           "write for example 'weights: {v1: 90, v2: 10}'"),
    canary(", guardrails: {error_rate: 1%}}", "guardrails", "a mapping is not a list",
           "write for example 'guardrails: [{metric: error_rate, max_increase: 1%}]'"),
    canary(", guardrails: [{metric: p95_latency, max_ratio: 2}]}", "guardrails[0].metric",
           "there is no metric 'p95_latency'; known: correct, seconds, error_rate, client_error_rate, latency_p50, latency_p95, latency_p99",
           "did you mean 'latency_p95'?"),
    row("correct: {type: boolean}", "correct: boolean", 2, "metrics.correct",
        "'boolean' is not a mapping of keys to values", "write {type: boolean}"),
    policy("{type: canary, baseline: v1, candidate: v2, stages: [5]}", "stages[0]",
           "5 is not a mapping of keys to values", "write {weight: 5%, for: 10m}"),
    policy("{type: canary, baseline: v1, candidate: v2, stages: [0.05]}", "stages[0]",
           "0.05 is not a mapping of keys to values", "write {weight: 0.05, for: 10m}"),
    # Unknown, missing and misplaced keys
    policy("{type: canary, baseline: v1, candidate: v2}", "stages",
           "the key 'stages' is missing; write for example 'stages: [{weight: 5%, for: 10m}]'"),
    below("webhooks: []", "webhooks",
          "there is no key 'webhooks'; known: body_limit, buffer_limit, comparison, covariates, engine, errors, fallback, fallback_on, feedback, forward_credentials, hedge, httproute, match, mirror, policy, retry, segments, shadows, timeouts, unit, usage, variants", "'webhooks' belongs to the top of the document"),
    row("url: \"http://127.0.0.1:9101\"", "url: \"http://127.0.0.1:9101\", port: 9101", 5, "backends.a.port",
        "there is no key 'port'; known: alpn, balance, ejection, headers, health, host, limit, pool, slow_start, tls, url, urls", "write it in the address: url: http://127.0.0.1:9101"),
    row("url: \"http://127.0.0.1:9101\"", "url: \"http://127.0.0.1:9101\", health: {port: 8081}", 5, "backends.a.health.port",
        "there is no key 'port'; known: every, from_root, grpc, healthy, method, path, status, timeout, unhealthy"),
    row(A, A + "\n  b: {url: http://127.0.0.1:9102, hedge: {after: 1s}}", 6, "backends.b.hedge",
        "there is no key 'hedge'; known: alpn, balance, ejection, headers, health, host, limit, pool, slow_start, tls, url, urls", "'hedge' belongs to routes.NAME"),
    below("timeout: {connect: 1s}", "timeout",
          "there is no key 'timeout'; known: body_limit, buffer_limit, comparison, covariates, engine, errors, fallback, fallback_on, feedback, forward_credentials, hedge, httproute, match, mirror, policy, retry, segments, shadows, timeouts, unit, usage, variants", "did you mean 'timeouts'?"),
    policy("{type: split, weights: {v1: 1}, variant: v1}", "variant",
           "there is no key 'variant'; known: type, weights"),
    policy("{type: bandti, metric: correct}", "",
           "'bandti' is unknown; expected one of single, split, shadow, canary, bandit", "did you mean 'bandit'?"),
    policy("{metric: correct}", "", "the key 'type' is missing; write one of single, split, shadow, canary, bandit"),
    row(POLICY + END, "", 7, "routes.digits.policy",
        "the key 'policy' is missing; write for example 'policy: {type: single, variant: NAME}'"),
    row("    match: {path: /v2/models/digits}\n", "", 7, "routes.digits",
        "write for example 'match: {path: /v2/models/NAME}'; without it nothing is proxied, and variants have no 'backend'"),
    row("v2: {backend: a}", "v2: {}", 11, "routes.digits.variants.v2",
        "write 'backend: ' and the name of one; only without 'match' a variant needs none"),
    row("    match: {path: /v2/models/digits}\n    variants:\n      v1: {backend: a}\n      v2: {backend: a}\n",
        "    variants:\n      v1: {}\n      v2: {payload: 1, rewrite: {model: m}}\n", 10, "routes.digits.variants.v2.rewrite",
        WITHOUT_MATCH),
    row("    match: {path: /v2/models/digits}\n    variants:\n      v1: {backend: a}\n      v2: {backend: a}\n",
        "    fallback: [v1]\n    variants:\n      v1: {}\n      v2: {}\n", 8, "routes.digits.fallback", WITHOUT_MATCH),
    row("    match: {path: /v2/models/digits}\n    variants:\n      v1: {backend: a}\n      v2: {backend: a}\n" + POLICY,
        "    variants:\n      v1: {}\n      v2: {}\n    policy: {type: canary, baseline: v1, candidate: v2, stages: [{weight: 10%, for: 1h}], gate: {agreement: 90%}}", 11, "routes.digits.policy.gate",
        "there are no requests to copy without 'match'; remove this"),
    metric("goal: maximize", "type", "the key 'type' is missing; write one of boolean, fraction, real, count"),
    metric("type: bool", "type",
           "'bool' is unknown; expected one of boolean, fraction, real, count", "did you mean 'boolean'?"),
    below("hedge: {after: 1s}", "hedge",
          "a hedge sends a request twice; write 'retry: {replayable: true}' if that is safe"),
    below("unit: {header: x-user, cookie: u}", "unit",
          "write exactly one of 'header', 'cookie', 'query', 'json' and 'principal'"),
    below("unit: {principal: false}", "unit.principal", "false is unknown; expected true"),
    row(POLICY,
        POLICY + "\n  twin:\n    match: {path: /v2/models/digits/}\n    variants: {x: {backend: a}}\n    policy: {type: single, variant: x}", 14, "routes.twin.match",
        "the route 'digits' matches exactly the same; write another path or condition"),
    row("path: /v2/models/digits", "path: /-/metrics", 8, "routes.digits.match.path",
        "'/-/' is reserved for the gateway; write another path"),
    *(row("path: /v2/models/digits", f"path: /v2/models/digits, host: '{host}'", 8, "routes.digits.match.host",
          f"'{host}' is not a host; write one such as models.internal, *.models.internal or [::1], without a port")
      for host in ("", "x:80", "*", "::1", "[::1]:80", "_x")),
    row("path: /v2/models/digits", "path: v2/models", 8, "routes.digits.match.path",
        "'v2/models' is not a path; write one that begins with '/' and has no '?', '#' or space"),
    # Kinds of values
    below("timeouts: {connect: 1}", "timeouts.connect",
          "1 is not a duration such as 250ms, 2s, 10m, 1h or 7d; write 1s if seconds are meant"),
    below("timeouts: {connect: 10 min}", "timeouts.connect",
          "'10 min' is not a duration such as 250ms, 2s, 10m, 1h or 7d; write 10m"),
    below("timeouts: {connect: 1h30m}", "timeouts.connect",
          "'1h30m' is not a duration such as 250ms, 2s, 10m, 1h or 7d; write 90m"),
    below("timeouts: {connect: 2 Hours}", "timeouts.connect",
          "'2 Hours' is not a duration such as 250ms, 2s, 10m, 1h or 7d; write 2h"),
    below("timeouts: {connect: 0s}", "timeouts.connect", "'0s' is too small; write more than 0"),
    below("timeouts:", "timeouts", "nothing is written here; write a mapping of keys to values, or leave the key out"),
    below("timeouts: {idle: }", "timeouts.idle", "nothing is written here; write a value, or leave the key out"),
    row("v2: {backend: a}", "v2: {backend: 1.10}", 11, "routes.digits.variants.v2.backend",
        "1.1 is not text", 'write "1.1" in quotes'),
    below("forward_credentials: perhaps", "forward_credentials", "'perhaps' is not true or false"),
    below("fallback: v1", "fallback", "'v1' is not a list", "write [v1]"),
    below("retry: {attempts: 11}", "retry.attempts", "11 is too large; write at most 10"),
    below("retry: {attempts: true}", "retry.attempts", "true is not a number; write one"),
    below("retry: {attempts: 1.5}", "retry.attempts", "1.5 is not a whole number"),
    below("body_limit: 1M", "body_limit", "'1M' is not a size; write bytes, or 64KiB, 1MiB, 2GiB"),
    below("fallback: [{respond: {json: 1, text: a}}]", "fallback[0].respond", "write 'json' or 'text', not both"),
    first("listen: 8080", "listen",
          "'8080' is not an address; write host:port such as 127.0.0.1:8080 or [::1]:8080, or :8080"),
    first("control: {port: 8081}", "control",
          "write one address, host:port such as 127.0.0.1:8080, and no mapping or list"),
    first("store: mysql://x", "store", "this is not a store; write sqlite:///FILE or redis://HOST:6379/0"),
    first("control: 127.0.0.1:8080", "control",
          "this is also the address of 'listen'; write another, or leave 'control' out"),
    first("trusted_proxies: [10.0.0.1/8]", "trusted_proxies[0]",
          "'10.0.0.1/8' is not a network; write one such as 10.0.0.0/8 or 127.0.0.1"),
    first("auth: {}", "auth", "no key or token would be accepted; write 'keys', 'jwt' or both, or leave 'auth' out"),
    first("tls: {cert: a, key: b, client_auth: required}", "tls",
          "'client_ca' and 'client_auth: optional|required' need each other; write both or neither"),
    row("correct:", "latency_p99:", 2, "metrics.latency_p99",
        "the gateway measures 'latency_p99' itself; choose another name"),
    metric("type: fraction, maximum: 2", "", "a fraction lies between 0 and 1; write a 'minimum' and 'maximum' within"),
    metric("type: real, minimum: 2, maximum: 1", "", "'minimum' is not below 'maximum'; write a range"),
    policy("{type: bandit, metric: correct, floor: 5%, debut: {share: 1%}}", "",
           "the debut's 'share' is below the floor, which every variant has; write more, or a lower floor"),
    policy("{type: bandit, metric: correct, algorithm: linear, features: {f: {header: x-f}}, debut: {}}", "",
           "with features a newcomer's share depends on the request, so 'debut' can't hold it; leave it out"),
    metric("type: real, minimum: 1, maximum: 5, missing: zero", "",
           "'missing: zero' needs a range with 0 in it; widen 'minimum' and 'maximum', or leave it out"),
    metric("type: boolean, cap: 1", "", "a boolean is at most 1 already; leave 'cap' out"),
    metric("type: real, cap: 9", "", "'cap' needs the other end of the range too; write a 'minimum', for example 0"),
    metric("type: boolean, missing: zero, adjust: past", "",
           "'adjust' needs the zeros reported; leave 'missing: zero' out"),
    metric("type: boolean, adjust: size", "", "a boolean metric is decided by bets, which use no covariate; leave 'adjust' out"),
    row("goal: minimize", "adjust: pst", 3, "metrics.seconds.adjust",
        "there is no covariate 'pst'; known: past", "did you mean 'past'?"),
    above("covariates: {past: {json: a, maximum: 1}}", "covariates.past",
          "this is the name of something else; write a different one"),
    # Covariates
    above("covariates: {size: {header: content-length}}", "covariates.size.maximum",
          "the key 'maximum' is missing; write it"),
    above("covariates: {size: {header: Host, maximum: 1}}", "covariates.size.header",
          "'host' is a field that the gateway itself acts on; write another header"),
    above("covariates: {size: {json: a, minimum: 2, maximum: 1}}", "covariates.size",
          "'minimum' is not below 'maximum'; write a range"),
    above("covariates: {size: {json: a, minimum: -1.0e308, maximum: 1.0e308}}", "covariates.size",
          "'minimum' and 'maximum' are too far apart; write a range of at most 8e307"),
    row(POLICY,
        "    unit: {header: x-user}\n    covariates: {size: {json: a, maximum: 1}}\n" + POLICY, 13, "routes.digits.covariates",
        "requests of one unit are one observation; remove 'covariates', and write 'adjust: past' on the metric"),
    row(POLICY,
        "    covariates: {size: {json: a, maximum: 1}}\n" + LINEAR + "features: {t: {json: a}}}", 12, "routes.digits.covariates",
        "with the policy's 'features' nothing is adjusted; remove 'covariates'"),
    row(POLICY,
        "    covariates: {" + ", ".join(f"c{k}: {{json: a, maximum: 1}}" for k in range(5)) + "}\n" + POLICY, 12, "routes.digits.covariates",
        "these are 5 covariates; write at most 4"),
    row(POLICY,
        "    segments: {t: {json: a, values: [x]}}\n    covariates: {t: {json: a, maximum: 1}}\n" + POLICY, 13, "routes.digits.covariates.t",
        "this is the name of something else; write a different one"),
    metric("type: count, maximum: 5, cap: 9", "",
           "'cap' lies outside the range; write one above 'minimum', at most 'maximum'"),
    metric("type: real, minimum: .inf", "minimum", "inf is not a finite number"),
    first('telemetry: {traces: {endpoint: "h2c://x"}}', "telemetry.traces.endpoint",
          "'h2c://x' is not an http or https address; write one such as https://10.0.0.1:6443"),
    first('engines: {k: {type: kubernetes, token: sixteen-characters, server: "h2://x"}}', "engines.k.server",
          "'h2://x' is not an http or https address; write one such as https://10.0.0.1:6443"),
    # Backends
    backend('{url: "http://x:1", urls: ["http://x:2"]}', "",
            "write either 'url' (one address) or 'urls' (a list of them)"),
    backend("{}", "", "write either 'url' (one address) or 'urls' (a list of them)"),
    backend("{url: 9101}", "url", "9101 is not text", 'write "http://127.0.0.1:9101"'),
    backend("{url: 127.0.0.1:9101}", "url",
            "'127.0.0.1:9101' is not an http, https, h2c or h2 address; write one such as http://127.0.0.1:9101"),
    backend('{url: "http://me:secret@x"}', "url",
            "credentials in an address end up in logs; write them under 'headers' of the backend"),
    backend("{url: 'http://x\"y:1'}", "url",
            "'x\"y' is not a host; write one such as models.internal"),
    backend('{url: "http://x..y"}', "url",
            "'x..y' is not a host; write one such as models.internal"),
    backend('{url: "https://x", tls: {server_name: "x) verify none"}}', "tls.server_name",
            "'x) verify none' is not a server name; write one such as models.internal, without a port"),
    backend('{url: "https://x", tls: {server_name: "x:443"}}', "tls.server_name",
            "'x:443' is not a server name; write one such as models.internal, without a port"),
    backend('{url: "http://x:1", health: {status: []}}', "health.status", "a list is too short; write at least 1"),
    backend('{urls: ["http://x:1", "http://x:1/"]}', "", "the same address is listed twice; write each once"),
    backend('{url: "http://x:1", healht: {}}', "healht",
            "there is no key 'healht'; known: alpn, balance, ejection, headers, health, host, limit, pool, slow_start, tls, url, urls", "did you mean 'health'?"),
    backend('{url: "https://x", tls: {cert: c}}', "tls",
            "a client certificate needs both 'cert' and 'key'; write the one that is missing"),
    backend('{url: "http://x:1", headers: {"bad name": x}}', "headers.bad name",
            "'bad name' is not the name of a header; write one such as x-user-id"),
    backend('{url: "http://x:1", headers: {x-a: "1\\r\\nx-b: 2"}}', "headers.x-a",
            "a header's value holds ISO 8859-1 without control characters or spaces at its ends; write it so"),
    backend('{url: "http://x:1", headers: {Transfer_Encoding: chunked}}', "headers.Transfer_Encoding",
            "the gateway sets 'transfer_encoding' itself; leave it out"),
    row("v2: {backend: a}", "v2: {backend: a, headers: {Host: other}}", 11, "routes.digits.variants.v2.headers.Host",
        "the gateway sets 'host' itself; use 'rewrite.host', or 'host' of the backend"),
    below("fallback: [{respond: {headers: {content-length: '3'}}}]", "fallback[0].respond.headers.content-length",
          "the gateway sets 'content-length' itself; leave it out"),
    row("  a: {url", "  a b: {url", 5, "backends.a b",
        "'a b' is not a name; write at most 64 letters, digits, '.', '_', '-', starting with a letter or digit"),
    # A canary that goes on as a bandit
    canary(", on_success: bandit}", "",
           "'on_success: bandit' and the section 'bandit' need each other; write both or neither"),
    canary(", bandit: {metric: correct}}", "",
           "'on_success: bandit' and the section 'bandit' need each other; write both or neither"),
    canary(", on_success: bandit, bandit: {}}", "bandit", "write exactly one of 'metric' and 'utility'"),
    canary(", on_success: bandit, bandit: {metric: corect}}", "bandit.metric",
           "there is no metric 'corect'; known: correct, seconds", "did you mean 'correct'?"),
    canary(", on_success: bandit, bandit: {utility: {corect: 1}}}", "bandit.utility.corect",
           "there is no metric 'corect'; known: correct, seconds", "did you mean 'correct'?"),
    canary(", on_success: bandit, bandit: {metric: correct, floor: 60%}}", "bandit.floor",
           "a floor of 60% for each of 2 variants exceeds 100%; write 50% or less"),
    canary(", on_success: bandit, bandit: {metric: correct, prior: {mean: 1}}}", "bandit.prior",
           "this prior is not for a metric of type boolean; write {alpha, beta}"),
    canary(", on_success: bandit, bandit: {metric: correct, stop: {}, discount: {half_life: 1h}}}", "bandit",
           "a bandit that forgets can't stop for good; leave 'stop' or 'discount' out"),
    policy("{type: bandit, metric: correct, stop: {}, discount: {half_life: 1h}}", "",
           "a bandit that forgets can't stop for good; leave 'stop' or 'discount' out"),
    canary(", on_success: bandit, bandit: {metric: correct, algorithm: linear}}", "bandit.algorithm",
           "'linear' is unknown; expected one of thompson, top_two"),
    # YAML itself
    below("match: {}", "match", "the key 'match' is already in line 8; leave one of them"),
]  # fmt: skip
