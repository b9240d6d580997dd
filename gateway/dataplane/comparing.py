"""Comparing a shadow's answer with the primary's without holding up the event loop.

Small answers are compared at once. Reading a large one takes milliseconds during which nothing else of the
process runs, so these go to another process; it is started when the first one comes. Too many at once, and the rest
is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

from gateway.dataplane.side_process import SideProcess
from gateway.internal_errors import INTERNAL_ERRORS
from policies.comparison.bodies import Comparison, Response
from policies.comparison.compare import Agreement, compare

AT_ONCE: Final = 4 * 1024
"""Bytes of both answers together that are compared on the event loop: half a millisecond at most."""
MOST: Final = 32
"""Comparisons that wait for the other process."""

Done = Callable[[Agreement], None]


def comparable(lines: Sequence[bytes], body: bytes) -> Response:
    """A response as `policies.comparison` takes it, from its field lines."""
    found = {b"content-type": "", b"inference-header-content-length": "", b"content-encoding": ""}
    for line in lines:
        name, _, value = line.partition(b":")
        key = name.lower()
        if key in found:
            found[key] = value.strip().decode("latin-1")
    return Response(body, *found.values())


class Comparer:
    """See the module."""

    def __init__(self) -> None:
        self._aside = SideProcess[Agreement](MOST)

    def compare(
        self, status: int, first: Response, other_status: int, second: Response, how: Comparison, done: Done
    ) -> None:
        """Calls ``done`` with what the comparison says, now or later."""
        if status != other_status:
            done(_statuses(status, other_status))
        elif first == second:
            done(Agreement("agrees", "bytes", difference=0.0))
        elif len(first.body) + len(second.body) <= AT_ONCE:
            done(_compared(first, second, how))
        else:
            self._aside.submit(
                _compared,
                (first, second, how),
                done,
                lambda reason: done(
                    Agreement("not_comparable", "", detail=f"the large answers were not compared: {reason}")
                ),
            )

    def close(self) -> None:
        """Ends the other process."""
        self._aside.close()


def _compared(first: Response, second: Response, how: Comparison) -> Agreement:
    """`compare`, of which the client must not feel a fault: what one cannot take is not comparable."""
    try:
        return compare(first, second, how)
    except Exception as error:  # noqa: BLE001 - no comparison is worth a request
        INTERNAL_ERRORS.report(error)
        return Agreement("not_comparable", "", detail="an error inside the gateway; see its log")


def _statuses(status: int, other: int) -> Agreement:
    first = [{"where": "status", "primary": str(status), "shadow": str(other)}]
    return Agreement("differs", "status", detail=json.dumps({"differences": 1, "first": first}))
