"""`turnout` that prints, on SIGUSR2, how many blocks of memory its Python objects hold."""

from __future__ import annotations

import gc
import signal
import sys

from gateway.cli import main


def count(*_: object) -> None:
    gc.collect()
    print(f"blocks {sys.getallocatedblocks()}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, count)
    sys.exit(main())
