"""What the processes run that tests/state starts: `python -m tests.state.workers ROLE PATH …`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from gateway.state import open_store
from tests.support.made import T0, outcome, reward


async def acknowledge(url: str) -> None:
    """Reports rewards for ever, printing the number of each once it is acknowledged."""
    store = open_store(url)
    await store.open()
    number = 0

    async def one(number: int) -> None:
        about = outcome(T0 + number, decision=number.to_bytes(16, "big"))
        await store.append([about])
        await store.reward([reward(1.0, of=about)])
        print(number, flush=True)

    while True:
        await asyncio.gather(*(one(number + k) for k in range(1, 9)))
        number += 8


async def fill(url: str, worker: str, batches: str) -> None:
    """Appends its own outcomes and reports its own rewards, and some that all workers report."""
    store = open_store(url)
    await store.open()
    for k in range(int(batches)):
        base = (int(worker) * 1_000_000 + k * 100).to_bytes(12, "big")
        rows = [outcome(T0 + k, decision=base + i.to_bytes(4, "big"), epoch=1 + k % 3) for i in range(20)]
        await store.append(rows)
        await store.reward([reward(1.0, of=row) for row in rows])
        shared = outcome(T0 + k, decision=(10**12 + k).to_bytes(16, "big"))
        await store.append([shared])
        await store.reward([reward(0.5, of=shared, metric="shared")])
        await store.save("document", "counter", worker, expected=k)
    await store.close()


async def leave_open(url: str) -> None:
    """Opens the store and waits to be killed."""
    store = open_store(url)
    await store.open()
    print("open", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    roles: dict[str, Any] = {"acknowledge": acknowledge, "fill": fill, "leave_open": leave_open}
    asyncio.run(roles[role](*arguments))
