"""``bentoml_calls.py URL``: BentoML's own clients through the gateway; prints what they see as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import bentoml


async def asynchronous(url: str) -> Any:
    async with bentoml.AsyncHTTPClient(url) as client:
        return await client.predict(x=4.0)


def main(url: str) -> dict[str, Any]:
    with bentoml.SyncHTTPClient(url) as client:
        found = {"whole": client.predict(x=4.0), "stream": "".join(client.stream(x=4.0))}
        found["ready"] = client.is_ready()
        try:
            client.predict(x="four")
        except bentoml.exceptions.InvalidArgument as error:
            found["error"] = json.loads(str(error))["error"]
    return found | {"async": asyncio.run(asynchronous(url))}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
