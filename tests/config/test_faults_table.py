"""Broken files, and exactly what is said of each: line, key path, message, hint."""
# ruff: noqa: E501  # a row of the table is one line of thought

from __future__ import annotations

from dataclasses import asdict

import pytest

from gateway.config.faults import MAX_FAULTS
from gateway.config.load import ConfigError, examine, load, render_faults

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

# (what to replace, by what, line, path, message, hint)
WITHOUT_MATCH = "without 'match' the route proxies nothing; remove this, or write 'match'"

TABLE = [
    (POLICY, POLICY + "\n    comparison: {ignore: ['*']}", 13, "routes.digits.comparison",
     "'ignore: *' leaves nothing to compare; name the keys to ignore", ""),
    # gRPC
    ("match: {path: /v2/models/digits}", "match: {grpc: a.B}", 10, "routes.digits.variants.v1.backend",
     "gRPC needs HTTP/2; write the address of 'a' with h2c:// or h2://", ""),
    (A, '  a: {url: "http://127.0.0.1:9101", health: {grpc: ""}}', 5, "backends.a",
     "'health.grpc' needs HTTP/2; write the address with h2c:// or h2://", ""),
    # Names that lead nowhere
    (POLICY, CANARY.replace("candidate: v2", "candidate: v3") + "}", 12, "routes.digits.policy.candidate",
     "there is no variant 'v3'; known: v1, v2", ""),
    (POLICY, CANARY.replace("candidate: v2", "candidate: v1") + "}", 12, "routes.digits.policy.candidate",
     "the candidate is the baseline itself; write another variant", ""),
    (POLICY, "    policy: {type: single, variant: v9}", 12, "routes.digits.policy.variant",
     "there is no variant 'v9'; known: v1, v2", ""),
    (POLICY, "    policy: {type: split, weights: {v1: 9, other: 1}}", 12, "routes.digits.policy.weights.other",
     "there is no variant 'other'; known: v1, v2", ""),
    (POLICY, "    policy: {type: shadow, primary: v1, shadows: {x: 5%}}", 12, "routes.digits.policy.shadows.x",
     "there is no variant 'x'; known: v1, v2", ""),
    (POLICY, POLICY + "\n    shadows: {v22: 5%}", 13, "routes.digits.shadows.v22",
     "there is no variant 'v22'; known: v1, v2", "did you mean 'v2'?"),
    (POLICY, POLICY + "\n    fallback: [v1, nobody]", 13, "routes.digits.fallback[1]",
     "there is no variant 'nobody'; known: v1, v2", ""),
    (POLICY, POLICY + "\n    fallback: [v1, v1]", 13, "routes.digits.fallback[1]",
     "'v1' is listed twice; remove one of them", ""),
    (POLICY, POLICY + "\n    fallback: [{respond: {status: 200}}, v1]", 13, "routes.digits.fallback[0]",
     "entries after a fixed response are never tried; write 'respond' last", ""),
    (POLICY, POLICY + "\n    fallback_on: {status: [204, 503]}", 13, "routes.digits.fallback_on.status",
     "a response with 204 is not a failure; write statuses from 400 to 599", ""),
    ("v2: {backend: a}", "v2: {backend: aa}", 11, "routes.digits.variants.v2.backend",
     "there is no backend 'aa'; known: a", "did you mean 'a'?"),
    (POLICY, "    policy: {type: bandit, metric: corect}", 12, "routes.digits.policy.metric",
     "there is no metric 'corect'; known: correct, seconds", "did you mean 'correct'?"),
    (POLICY, "    policy: {type: bandit, metric: error_rate}", 12, "routes.digits.policy.metric",
     "'error_rate' is not reported by clients; write one of the declared metrics", ""),
    (POLICY, "    policy: {type: bandit, utility: {correct: 1, cost: 1}}", 12, "routes.digits.policy.utility.cost",
     "there is no metric 'cost'; known: correct, seconds", ""),
    (POLICY, CANARY + ", guardrails: [{metric: latency_p0, max_ratio: 2}]}", 12,
     "routes.digits.policy.guardrails[0].metric",
     "there is no metric 'latency_p0'; known: correct, seconds, error_rate, latency_p50, latency_p95, latency_p99",
     "did you mean 'latency_p50'?"),
    (POLICY, POLICY + "\n    feedback: [x]", 13, "routes.digits.feedback[0]",
     "there is no metric 'x'; known: correct, seconds", ""),
    ("metrics:", "auth: {keys: [{id: k, hash: 'sha256:" + "0" * 64 + "', scopes: [infer], routes: [digit]}]}\nmetrics:",
     1, "auth.keys[0].routes[0]", "there is no route 'digit'; known: digits", "did you mean 'digits'?"),
    # Shares and numbers that don't add up
    (POLICY, "    policy: {type: split, weights: {v1: 0, v2: 0%}}", 12, "routes.digits.policy.weights",
     "all weights are 0; write at least one above 0", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, floor: 51%}", 12, "routes.digits.policy.floor",
     "a floor of 0.51 for each of 2 variants exceeds 100%; write 50% or less", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, prior: {shape: 2}}", 12, "routes.digits.policy.prior",
     "this prior is not for a metric of type boolean; write {alpha, beta}", ""),
    (POLICY, CANARY.replace("1%", "5") + "}", 12, "routes.digits.policy.stages[0].weight",
     "5 is more than the whole; write 5%", ""),
    (POLICY, CANARY.replace(", for: 1m", "") + "}", 12, "routes.digits.policy.stages[0]",
     "this stage would end immediately; write 'for', 'min_samples' or both", ""),
    (POLICY, CANARY.replace("[{weight: 1%, for: 1m}]", "[]") + "}", 12, "routes.digits.policy.stages",
     "a list is too short; write at least 1", ""),
    # Guardrails
    (POLICY, CANARY + ", guardrails: [{metric: correct}]}", 12, "routes.digits.policy.guardrails[0]",
     BOUNDS, ""),
    (POLICY, CANARY + ", guardrails: [{metric: correct, max_decrease: 1%, max_ratio: 1}]}", 12,
     "routes.digits.policy.guardrails[0]", BOUNDS, ""),
    (POLICY, CANARY + ", guardrails: [{metric: latency_p99, max_increase: 5%}]}", 12,
     "routes.digits.policy.guardrails[0]",
     "'max_increase' of a latency is a time; write it as 20ms, or write 'max_ratio: 1.2'", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, guardrails: [{metric: error_rate, max_ratio: 2}]}", 12,
     "routes.digits.policy", "guardrails compare with a baseline; write 'baseline: VARIANT'", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, utility: {correct: 1}}", 12, "routes.digits.policy",
     "write exactly one of 'metric' and 'utility'", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, algorithm: linear}", 12, "routes.digits.policy",
     "'features' and 'algorithm: linear' need each other; write both or neither", ""),
    # Features
    (POLICY, LINEAR + "features: {t: {header: x-t, json: a.b}}}", 12, "routes.digits.policy.features.t",
     "write exactly one of 'header' and 'json'", ""),
    (POLICY, LINEAR + "features: {t: {json: a, values: [x, y], minimum: 3, maximum: 4}}}", 12,
     "routes.digits.policy.features.t",
     "categories have no range; leave 'minimum' and 'maximum' out, or 'values'", ""),
    (POLICY, LINEAR + "features: {t: {json: a, values: [x, x]}}}", 12, "routes.digits.policy.features.t.values",
     "'values' lists a category twice; write each once", ""),
    (POLICY, LINEAR + "stop: {}, features: {t: {json: a}}}", 12, "routes.digits.policy",
     "with features there is no single winner: which variant is best depends on the request; leave 'stop' out", ""),
    (POLICY, LINEAR + "prior: {alpha: 2}, features: {t: {json: a}}}", 12, "routes.digits.policy",
     "'algorithm: linear' has a prior of its own; leave 'prior' out", ""),
    (POLICY, LINEAR.replace("metric: correct", "utility: {correct: 1}") + "features: {t: {json: a}}}", 12,
     "routes.digits.policy", "'algorithm: linear' learns from one metric; write 'metric' instead of 'utility'", ""),
    (POLICY, LINEAR + "features: {t: {json: a}, c: {json: b, values: [" + ", ".join(f"v{k}" for k in range(30)) + "]}}}",
     12, "routes.digits.policy.features",
     ("these features make 33 columns (a constant, two for each number, one for each category) for each of 2 variants; "
     "write features with at most 32"), ""),
    (POLICY, "    segments: {t: {values: [a]}}\n" + POLICY, 12, "routes.digits.segments.t",
     "write exactly one of 'header' and 'json'", ""),
    (POLICY, "    segments: {t: {json: a}}\n" + POLICY, 12, "routes.digits.segments.t.values",
     "the key 'values' is missing; write it", ""),
    (POLICY, "    segments: {t: {json: a, values: [x, x]}}\n" + POLICY, 12, "routes.digits.segments.t.values",
     "'values' lists a category twice; write each once", ""),
    (POLICY, "    segments: {t: {header: Host, values: [x]}}\n" + POLICY, 12, "routes.digits.segments.t.header",
     "'host' is a field that the gateway itself acts on; write another header", ""),
    (POLICY, "    segments: {t: {json: a, values: [" + ", ".join(f"v{k}" for k in range(24)) + "]}}\n" + POLICY, 12,
     "routes.digits.segments", ("these are 25 segments, one for each value and one for all others of each feature; "
     "write at most 24"), ""),
    (POLICY, "    segments: {t: {json: a, values: [x]}}\n" + LINEAR + "features: {t: {json: a}}}", 12,
     "routes.digits.segments", "the policy's 'features' make segments already; remove 'segments'", ""),
    (POLICY, LINEAR + "features: {t: {header: X-Variant}}}", 12, "routes.digits.policy.features.t.header",
     "'x-variant' is a field that the gateway itself acts on; write another header", ""),
    # A text in place of a mapping
    ("match: {path: /v2/models/digits}", "match: /v2/models/digits", 8, "routes.digits.match",
     "'/v2/models/digits' is not a mapping of keys to values", "write {path: /v2/models/digits}"),
    (POLICY, "    policy: single", 12, "routes.digits.policy",
     "'single' is not a mapping of keys to values", "write {type: single}"),
    ("v2: {backend: a}", "v2: a", 11, "routes.digits.variants.v2",
     "'a' is not a mapping of keys to values", "write {backend: a}"),
    (A, '  a: "http://127.0.0.1:9101"', 5, "backends.a",
     "'http://127.0.0.1:9101' is not a mapping of keys to values", "write {url: http://127.0.0.1:9101}"),
    (POLICY, "    unit: x-user-id\n" + POLICY, 12, "routes.digits.unit",
     "'x-user-id' is not a mapping of keys to values", "write {header: x-user-id}"),
    (POLICY, "    timeouts: 2s\n" + POLICY, 12, "routes.digits.timeouts",
     "'2s' is not a mapping of keys to values", ""),
    ("correct: {type: boolean}", "correct: boolean", 2, "metrics.correct",
     "'boolean' is not a mapping of keys to values", "write {type: boolean}"),
    (POLICY, "    policy: {type: canary, baseline: v1, candidate: v2, stages: [5]}", 12, "routes.digits.policy.stages[0]",
     "5 is not a mapping of keys to values", "write {weight: 5%, for: 10m}"),
    (POLICY, "    policy: {type: canary, baseline: v1, candidate: v2, stages: [0.05]}", 12,
     "routes.digits.policy.stages[0]",
     "0.05 is not a mapping of keys to values", "write {weight: 0.05, for: 10m}"),
    # Unknown, missing and misplaced keys
    (POLICY, "    policy: {type: canary, baseline: v1, candidate: v2}", 12, "routes.digits.policy.stages",
     "the key 'stages' is missing; write for example 'stages: [{weight: 5%, for: 10m}]'", ""),
    (POLICY, POLICY + "\n    webhooks: []", 13, "routes.digits.webhooks",
     "there is no key 'webhooks'; known: body_limit, buffer_limit, comparison, covariates, engine, errors, fallback, fallback_on, feedback, forward_credentials, hedge, httproute, match, mirror, policy, retry, segments, shadows, timeouts, unit, usage, variants", "'webhooks' belongs to the top of the document"),
    (A, A + "\n  b: {url: http://127.0.0.1:9102, hedge: {after: 1s}}", 6, "backends.b.hedge",
     "there is no key 'hedge'; known: alpn, balance, ejection, headers, health, host, limit, pool, slow_start, tls, url, urls", "'hedge' belongs to routes.NAME"),
    (POLICY, POLICY + "\n    timeout: {connect: 1s}", 13, "routes.digits.timeout",
     "there is no key 'timeout'; known: body_limit, buffer_limit, comparison, covariates, engine, errors, fallback, fallback_on, feedback, forward_credentials, hedge, httproute, match, mirror, policy, retry, segments, shadows, timeouts, unit, usage, variants", "did you mean 'timeouts'?"),
    (POLICY, "    policy: {type: split, weights: {v1: 1}, variant: v1}", 12, "routes.digits.policy.variant",
     "there is no key 'variant'; known: type, weights", ""),
    (POLICY, "    policy: {type: bandti, metric: correct}", 12, "routes.digits.policy",
     "'bandti' is unknown; expected one of single, split, shadow, canary, bandit", "did you mean 'bandit'?"),
    (POLICY, "    policy: {metric: correct}", 12, "routes.digits.policy",
     "the key 'type' is missing; write one of single, split, shadow, canary, bandit", ""),
    (POLICY + END, "", 7, "routes.digits.policy",
     "the key 'policy' is missing; write for example 'policy: {type: single, variant: NAME}'", ""),
    ("    match: {path: /v2/models/digits}\n", "", 7, "routes.digits",
     ("write for example 'match: {path: /v2/models/NAME}'; without it nothing is proxied, and variants have no "
      "'backend'"), ""),
    ("v2: {backend: a}", "v2: {}", 11, "routes.digits.variants.v2",
     "write 'backend: ' and the name of one; only without 'match' a variant needs none", ""),
    ("    match: {path: /v2/models/digits}\n    variants:\n      v1: {backend: a}\n      v2: {backend: a}\n",
     "    variants:\n      v1: {}\n      v2: {payload: 1, rewrite: {model: m}}\n", 10,
     "routes.digits.variants.v2.rewrite", WITHOUT_MATCH, ""),
    ("    match: {path: /v2/models/digits}\n    variants:\n      v1: {backend: a}\n      v2: {backend: a}\n",
     "    fallback: [v1]\n    variants:\n      v1: {}\n      v2: {}\n", 8,
     "routes.digits.fallback", WITHOUT_MATCH, ""),
    ("    match: {path: /v2/models/digits}\n    variants:\n      v1: {backend: a}\n      v2: {backend: a}\n" + POLICY,
     ("    variants:\n      v1: {}\n      v2: {}\n    policy: {type: canary, baseline: v1, candidate: v2, "
     "stages: [{weight: 10%, for: 1h}], gate: {agreement: 90%}}"), 11,
     "routes.digits.policy.gate", "there are no requests to copy without 'match'; remove this", ""),
    ("type: boolean", "goal: maximize", 2, "metrics.correct.type",
     "the key 'type' is missing; write one of boolean, fraction, real and count", ""),
    ("type: boolean", "type: bool", 2, "metrics.correct.type",
     "'bool' is unknown; expected one of boolean, fraction, real, count", "did you mean 'boolean'?"),
    (POLICY, POLICY + "\n    hedge: {after: 1s}", 13, "routes.digits.hedge",
     "a hedge sends a request twice; write 'retry: {replayable: true}' if that is safe", ""),
    (POLICY, POLICY + "\n    unit: {header: x-user, cookie: u}", 13, "routes.digits.unit",
     "write exactly one of 'header', 'cookie', 'query', 'json' and 'principal'", ""),
    (POLICY, POLICY + "\n    unit: {principal: false}", 13, "routes.digits.unit.principal",
     "false is unknown; expected true", ""),
    (POLICY, POLICY + "\n  twin:\n    match: {path: /v2/models/digits/}\n    variants: {x: {backend: a}}\n"
     "    policy: {type: single, variant: x}", 14, "routes.twin.match",
     "the route 'digits' matches exactly the same; write another path or condition", ""),
    ("path: /v2/models/digits", "path: /-/metrics", 8, "routes.digits.match.path",
     "'/-/' is reserved for the gateway; write another path", ""),
    ("path: /v2/models/digits", "path: v2/models", 8, "routes.digits.match.path",
     "'v2/models' is not a path; write one that begins with '/' and has no '?', '#' or space", ""),
    # Kinds of values
    (POLICY, POLICY + "\n    timeouts: {connect: 1}", 13, "routes.digits.timeouts.connect",
     "1 is not a duration such as 250ms, 2s, 10m, 1h or 7d; write 1s if seconds are meant", ""),
    (POLICY, POLICY + "\n    timeouts: {connect: 0s}", 13, "routes.digits.timeouts.connect",
     "'0s' is too small; write more than 0", ""),
    (POLICY, POLICY + "\n    timeouts:", 13, "routes.digits.timeouts",
     "nothing is written here; write a mapping of keys to values, or leave the key out", ""),
    (POLICY, POLICY + "\n    timeouts: {idle: }", 13, "routes.digits.timeouts.idle",
     "nothing is written here; write a value, or leave the key out", ""),
    ("v2: {backend: a}", "v2: {backend: 1.10}", 11, "routes.digits.variants.v2.backend",
     "1.1 is not text", 'write "1.1" in quotes'),
    (POLICY, POLICY + "\n    forward_credentials: perhaps", 13, "routes.digits.forward_credentials",
     "'perhaps' is not true or false", ""),
    (POLICY, POLICY + "\n    fallback: v1", 13, "routes.digits.fallback", "'v1' is not a list", "write [v1]"),
    (POLICY, POLICY + "\n    retry: {attempts: 11}", 13, "routes.digits.retry.attempts",
     "11 is too large; write at most 10", ""),
    (POLICY, POLICY + "\n    retry: {attempts: true}", 13, "routes.digits.retry.attempts",
     "true is not a number; write one", ""),
    (POLICY, POLICY + "\n    retry: {attempts: 1.5}", 13, "routes.digits.retry.attempts",
     "1.5 is not a whole number", ""),
    (POLICY, POLICY + "\n    body_limit: 1M", 13, "routes.digits.body_limit",
     "'1M' is not a size; write bytes, or 64KiB, 1MiB, 2GiB", ""),
    (POLICY, POLICY + "\n    fallback: [{respond: {json: 1, text: a}}]", 13, "routes.digits.fallback[0].respond",
     "write 'json' or 'text', not both", ""),
    ("metrics:", "listen: 8080\nmetrics:", 1, "listen",
     "'8080' is not an address; write host:port such as 127.0.0.1:8080 or [::1]:8080, or :8080", ""),
    ("metrics:", "store: mysql://x\nmetrics:", 1, "store",
     "this is not a store; write sqlite:///FILE or redis://HOST:6379/0", ""),
    ("metrics:", "control: 127.0.0.1:8080\nmetrics:", 1, "control",
     "this is also the address of 'listen'; write another, or leave 'control' out", ""),
    ("metrics:", "trusted_proxies: [10.0.0.1/8]\nmetrics:", 1, "trusted_proxies[0]",
     "'10.0.0.1/8' is not a network; write one such as 10.0.0.0/8 or 127.0.0.1", ""),
    ("metrics:", "auth: {}\nmetrics:", 1, "auth",
     "no key or token would be accepted; write 'keys', 'jwt' or both, or leave 'auth' out", ""),
    ("metrics:", "tls: {cert: a, key: b, client_auth: required}\nmetrics:", 1, "tls",
     "'client_ca' and 'client_auth: optional|required' need each other; write both or neither", ""),
    ("correct:", "latency_p99:", 2, "metrics.latency_p99",
     "the gateway measures 'latency_p99' itself; choose another name", ""),
    ("type: boolean", "type: fraction, maximum: 2", 2, "metrics.correct",
     "a fraction lies between 0 and 1; write a 'minimum' and 'maximum' within", ""),
    ("type: boolean", "type: real, minimum: 2, maximum: 1", 2, "metrics.correct",
     "'minimum' is not below 'maximum'; write a range", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, floor: 5%, debut: {share: 1%}}", 12, "routes.digits.policy",
     "the debut's 'share' is below the floor, which every variant has; write more, or a lower floor", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, algorithm: linear, features: {f: {header: x-f}}, debut: {}}",
     12, "routes.digits.policy",
     "with features a newcomer's share depends on the request, so 'debut' can't hold it; leave it out", ""),
    ("type: boolean", "type: real, minimum: 1, maximum: 5, missing: zero", 2, "metrics.correct",
     "'missing: zero' needs a range with 0 in it; widen 'minimum' and 'maximum', or leave it out", ""),
    ("type: boolean", "type: boolean, cap: 1", 2, "metrics.correct",
     "a boolean is at most 1 already; leave 'cap' out", ""),
    ("type: boolean", "type: real, cap: 9", 2, "metrics.correct",
     "'cap' needs the other end of the range too; write a 'minimum', for example 0", ""),
    ("type: boolean", "type: boolean, missing: zero, adjust: past", 2, "metrics.correct",
     "'adjust' needs the zeros reported; leave 'missing: zero' out", ""),
    ("type: boolean", "type: boolean, adjust: size", 2, "metrics.correct",
     "bets decide on a boolean, without a covariate; leave 'adjust' out", ""),
    ("goal: minimize", "adjust: pst", 3, "metrics.seconds.adjust",
     "there is no covariate 'pst'; known: past", "did you mean 'past'?"),
    (POLICY, "    covariates: {past: {json: a, maximum: 1}}\n" + POLICY, 12, "routes.digits.covariates.past",
     "this is the name of something else; write a different one", ""),
    # Covariates
    (POLICY, "    covariates: {size: {header: content-length}}\n" + POLICY, 12,
     "routes.digits.covariates.size.maximum", "the key 'maximum' is missing; write it", ""),
    (POLICY, "    covariates: {size: {header: Host, maximum: 1}}\n" + POLICY, 12,
     "routes.digits.covariates.size.header",
     "'host' is a field that the gateway itself acts on; write another header", ""),
    (POLICY, "    covariates: {size: {json: a, minimum: 2, maximum: 1}}\n" + POLICY, 12,
     "routes.digits.covariates.size", "'minimum' is not below 'maximum'; write a range", ""),
    (POLICY, "    covariates: {size: {json: a, minimum: -1.0e308, maximum: 1.0e308}}\n" + POLICY, 12,
     "routes.digits.covariates.size",
     "'minimum' and 'maximum' are too far apart; write a range of at most 8e307", ""),
    (POLICY, "    unit: {header: x-user}\n    covariates: {size: {json: a, maximum: 1}}\n" + POLICY, 13,
     "routes.digits.covariates",
     "requests of one unit are one observation; remove 'covariates', and write 'adjust: past' on the metric", ""),
    (POLICY, "    covariates: {size: {json: a, maximum: 1}}\n" + LINEAR + "features: {t: {json: a}}}", 12,
     "routes.digits.covariates", "with the policy's 'features' nothing is adjusted; remove 'covariates'", ""),
    (POLICY, "    covariates: {" + ", ".join(f"c{k}: {{json: a, maximum: 1}}" for k in range(5)) + "}\n" + POLICY, 12,
     "routes.digits.covariates", "these are 5 covariates; write at most 4", ""),
    (POLICY, "    segments: {t: {json: a, values: [x]}}\n    covariates: {t: {json: a, maximum: 1}}\n" + POLICY, 13,
     "routes.digits.covariates.t", "this is the name of something else; write a different one", ""),
    ("type: boolean", "type: count, maximum: 5, cap: 9", 2, "metrics.correct",
     "'cap' lies outside the range; write one above 'minimum', at most 'maximum'", ""),
    ("type: boolean", "type: real, minimum: .inf", 2, "metrics.correct.minimum", "inf is not a finite number", ""),
    # Backends
    (A, '  a: {url: "http://x:1", urls: ["http://x:2"]}', 5, "backends.a",
     "write either 'url' (one address) or 'urls' (a list of them)", ""),
    (A, "  a: {}", 5, "backends.a", "write either 'url' (one address) or 'urls' (a list of them)", ""),
    (A, "  a: {url: 127.0.0.1:9101}", 5, "backends.a.url",
     "'127.0.0.1:9101' is not an http, https, h2c or h2 address; write one such as http://127.0.0.1:9101", ""),
    (A, '  a: {url: "http://me:secret@x"}', 5, "backends.a.url",
     "credentials in an address end up in logs; write them under 'headers' of the backend", ""),
    (A, '  a: {urls: ["http://x:1", "http://x:1/"]}', 5, "backends.a",
     "the same address is listed twice; write each once", ""),
    (A, '  a: {url: "http://x:1", healht: {}}', 5, "backends.a.healht",
     "there is no key 'healht'; known: alpn, balance, ejection, headers, health, host, limit, pool, slow_start, tls, url, urls", "did you mean 'health'?"),
    (A, '  a: {url: "https://x", tls: {cert: c}}', 5, "backends.a.tls",
     "a client certificate needs both 'cert' and 'key'; write the one that is missing", ""),
    (A, '  a: {url: "http://x:1", headers: {"bad name": x}}', 5, "backends.a.headers.bad name",
     "'bad name' is not the name of a header; write one such as x-user-id", ""),
    (A, '  a: {url: "http://x:1", headers: {x-a: "1\\r\\nx-b: 2"}}', 5, "backends.a.headers.x-a",
     "a header's value holds ISO 8859-1 without control characters or spaces at its ends; write it so", ""),
    (A, '  a: {url: "http://x:1", headers: {Transfer_Encoding: chunked}}', 5, "backends.a.headers.Transfer_Encoding",
     "the gateway sets 'transfer_encoding' itself; leave it out", ""),
    ("v2: {backend: a}", "v2: {backend: a, headers: {Host: other}}", 11, "routes.digits.variants.v2.headers.Host",
     "the gateway sets 'host' itself; use 'rewrite.host', or 'host' of the backend", ""),
    (POLICY, POLICY + "\n    fallback: [{respond: {headers: {content-length: '3'}}}]", 13,
     "routes.digits.fallback[0].respond.headers.content-length",
     "the gateway sets 'content-length' itself; leave it out", ""),
    ("  a: {url", "  a b: {url", 5, "backends.a b",
     "'a b' is not a name; write at most 64 letters, digits, '.', '_', '-', starting with a letter or digit", ""),
    # A canary that goes on as a bandit
    (POLICY, CANARY + ", on_success: bandit}", 12, "routes.digits.policy",
     "'on_success: bandit' and the section 'bandit' need each other; write both or neither", ""),
    (POLICY, CANARY + ", bandit: {metric: correct}}", 12, "routes.digits.policy",
     "'on_success: bandit' and the section 'bandit' need each other; write both or neither", ""),
    (POLICY, CANARY + ", on_success: bandit, bandit: {}}", 12, "routes.digits.policy.bandit",
     "write exactly one of 'metric' and 'utility'", ""),
    (POLICY, CANARY + ", on_success: bandit, bandit: {metric: corect}}", 12, "routes.digits.policy.bandit.metric",
     "there is no metric 'corect'; known: correct, seconds", "did you mean 'correct'?"),
    (POLICY, CANARY + ", on_success: bandit, bandit: {utility: {corect: 1}}}", 12, "routes.digits.policy.bandit.utility.corect",
     "there is no metric 'corect'; known: correct, seconds", "did you mean 'correct'?"),
    (POLICY, CANARY + ", on_success: bandit, bandit: {metric: correct, floor: 60%}}", 12, "routes.digits.policy.bandit.floor",
     "a floor of 0.6 for each of 2 variants exceeds 100%; write 50% or less", ""),
    (POLICY, CANARY + ", on_success: bandit, bandit: {metric: correct, prior: {mean: 1}}}", 12, "routes.digits.policy.bandit.prior",
     "this prior is not for a metric of type boolean; write {alpha, beta}", ""),
    (POLICY, CANARY + ", on_success: bandit, bandit: {metric: correct, stop: {}, discount: {half_life: 1h}}}", 12, "routes.digits.policy.bandit",
     "a bandit that forgets can't stop for good; leave 'stop' or 'discount' out", ""),
    (POLICY, "    policy: {type: bandit, metric: correct, stop: {}, discount: {half_life: 1h}}", 12, "routes.digits.policy",
     "a bandit that forgets can't stop for good; leave 'stop' or 'discount' out", ""),
    (POLICY, CANARY + ", on_success: bandit, bandit: {metric: correct, algorithm: linear}}", 12, "routes.digits.policy.bandit.algorithm",
     "'linear' is unknown; expected one of thompson, top_two", ""),
    # YAML itself
    (POLICY, POLICY + "\n    match: {}", 13, "routes.digits.match",
     "the key 'match' is already in line 8; leave one of them", ""),
]  # fmt: skip


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
        ('url: "http://127.0.0.1:9101"', 'url: "http://[${S}]/"'),
        ('url: "http://127.0.0.1:9101"', 'url: "${S}://h"'),
        ("type: split", 'type: "${S}"'),
        ("metrics:", 'auth: {jwt: {issuer: i, audience: a, jwks: "ftp://${S}"}}\nmetrics:'),
        ("metrics:", 'listen: "${S}"\nmetrics:'),
        ("metrics:", 'auth: {keys: [{id: "${S}", hash: "sha256:x", scopes: ["${S}"]}]}\nmetrics:'),
    ],
)
def test_no_part_of_a_secret_is_shown_by_any_check(old: str, new: str) -> None:
    """S11: libraries quote values in forms of their own, and readers saw them in the log and the events."""
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    faults = examine(text, env={"S": "hunter2/seCret"}).faults
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
        (POLICY, CANARY.replace("}]", "}, {weight: 1%, for: 1m}]") + ", guardrails: [{metric: correct, max_decrease: 1}]}",
         "routes.digits.policy.stages[1].weight", "weights usually increase"),
        (POLICY, CANARY.replace("1%", "1") + ", guardrails: [{metric: correct, max_decrease: 1}]}",
         "routes.digits.policy.stages[0].weight", "write 1% for one percent"),
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
        ("correct: {type: boolean", "correct: {type: boolean, missing: zero", "metrics.correct.missing", "enable 'record'"),
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
