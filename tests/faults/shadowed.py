"""Routes with shadows, and what became of their copies."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tests.faults.rig import FaultRig
from tests.support.backend import ok

NAMES = ("a", "s", "t")
CONFIG = """
limits:
  shadow: {waiting: 8, bytes: 256KiB, in_flight: 4, timeout: 400ms, answer: 64KiB, load: 50}
backends:
  a: {url: "http://127.0.0.1:@A@"}
  s: {url: "http://127.0.0.1:@S@"}
  t: {url: "http://127.0.0.1:@T@"}
  dead: {url: "http://127.0.0.1:@DEAD@"}
routes:
  one:
    match: {path: /one}
    variants: {v1: {backend: a}, shade: {backend: s}}
    policy: {type: shadow, primary: v1, shadows: {shade: 100%}}
  two:
    match: {path: /two}
    variants: {v1: {backend: a}, shade: {backend: s}, tint: {backend: t}}
    policy: {type: single, variant: v1}
    shadows: {shade: 100%, tint: 100%}
  third:
    match: {path: /third}
    variants: {v1: {backend: a}, shade: {backend: s}, tint: {backend: t}}
    policy: {type: single, variant: v1}
    shadows: {shade: 30%, tint: 5%}
  dead:
    match: {path: /dead}
    variants: {v1: {backend: a}, shade: {backend: dead}}
    policy: {type: shadow, primary: v1, shadows: {shade: 100%}}
  same:
    match: {path: /same}
    variants: {v1: {backend: a}, v2: {backend: a, rewrite: {path: /other}}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
  model:
    match: {path: /model}
    variants: {v1: {backend: a}, shade: {backend: s, rewrite: {model: another}}}
    policy: {type: shadow, primary: v1, shadows: {shade: 100%}}
  near:
    match: {path: /near}
    variants: {v1: {backend: a}, shade: {backend: s}}
    policy: {type: shadow, primary: v1, shadows: {shade: 100%}}
    comparison: {type: json, tolerance: 0.5}
  kept:
    match: {path: /kept}
    buffer_limit: 1KiB
    variants: {v1: {backend: a}, shade: {backend: s}}
    policy: {type: shadow, primary: v1, shadows: {shade: 100%}}
"""


def counts(rig: FaultRig, route: str, shadow: str = "shade") -> Counter[str]:
    return Counter({e: n for (r, s, e), n in rig.shadow.counts.items() if (r, s) == (route, shadow)})


def until_active(rig: FaultRig, count: int) -> None:
    rig.until(lambda: len(rig.worker.active) >= count)


def settled(rig: FaultRig) -> None:
    shadow = rig.shadow
    rig.until(lambda: not (shadow.waiting or shadow.running or shadow.held))


def row(rig: FaultRig) -> Any:
    rig.until(lambda: rig.shadowed)
    (found,) = rig.shadowed
    return found


def json_answer(document: Any, *lines: bytes) -> bytes:
    return ok(json.dumps(document).encode(), b"content-type: application/json", *lines)


def forget(rig: FaultRig) -> None:
    """All copies of earlier tests."""
    shadow = rig.shadow
    shadow.counts.clear()
    shadow._queues.clear()
    shadow._seen.clear()
