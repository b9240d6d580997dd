"""``gradio_calls.py URL USERS CALLS``: gradio_client through the gateway; prints the results by user as JSON."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from gradio_client import Client


def results(url: str, user: str, calls: int) -> list[float]:
    client = Client(url, headers={"x-user-id": user}, verbose=False)
    return [client.predict(4.0, api_name="/predict") for _ in range(calls)]


if __name__ == "__main__":
    url, users, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda number: results(url, f"user-{number}", calls), range(users))
        print(json.dumps(list(found)))
