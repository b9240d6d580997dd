"""Documents of one route, "r", whose backend no request reaches."""

from __future__ import annotations


def one_route(
    policy: str, *, variants: int = 2, metrics: str = "correct: {type: boolean}", unit: str = ""
) -> str:
    """``policy``, in braces, decides among v1, v2 and so on; ``unit`` is a header."""
    return f"""
metrics: {{{metrics}}}
backends: {{a: {{url: "http://127.0.0.1:1"}}}}
routes:
  r:
    match: {{path: /r}}
    variants: {{{", ".join(f"v{n + 1}: {{backend: a}}" for n in range(variants))}}}
    {f"unit: {{header: {unit}}}" if unit else ""}
    policy: {policy}
"""


def canary(stages: str, guardrail: str, rest: str = "") -> str:
    """A policy from v1 to v2; ``rest`` begins with a comma."""
    given = f"stages: [{stages}], guardrails: [{{{guardrail}}}]{rest}"
    return f"{{type: canary, baseline: v1, candidate: v2, {given}}}"
