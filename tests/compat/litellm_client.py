"""Run in the environment `litellm`: LiteLLM's SDK against the gateway at the address given; prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm

MESSAGES = [{"role": "user", "content": "hello"}]


def main(url: str, key: str) -> dict[str, Any]:
    """What LiteLLM reads, by kind of call."""
    options: dict[str, Any] = {"api_key": key, "max_retries": 0, "timeout": 20, "messages": MESSAGES}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    targets: dict[str, dict[str, Any]] = {
        "openai": {"model": "openai/m", "api_base": f"{url}/v1"},
        "azure": {"model": "azure/m", "api_base": url, "api_version": "2024-10-21"},
        "anthropic": {"model": "anthropic/m", "api_base": url, "max_tokens": 9},
    }
    found: dict[str, Any] = {}
    for name, target in targets.items():
        whole = litellm.completion(**options, **target)
        found[name] = whole.choices[0].message.content
        chunks = list(litellm.completion(**options, **target, **streamed))
        found[f"{name} streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    vectors = litellm.embedding(
        model="openai/m", input=["one", "two"], api_base=f"{url}/v1", api_key=key, encoding_format="float"
    )
    found["embeddings"] = len(vectors.data)
    try:
        litellm.completion(**{**options, **targets["openai"], "api_key": "wrong"})
    except Exception as error:  # noqa: BLE001  whatever kind the SDK has
        found["wrong key"] = type(error).__name__
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
