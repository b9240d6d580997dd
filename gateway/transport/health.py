"""Which addresses of a backend may be used: what probes say, what answers say, and who has fallen silent.

One `Health` for each backend of the configuration, kept across edits. The judgement on failures is
`policies.ejection`; here it meets the addresses. As long as nothing is wrong, a request pays for one
observation, and the choice between addresses does not look here at all (`Health.degraded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Literal

from gateway.transport.address import Address
from policies import ejection

State = Literal["healthy", "unhealthy", "ejected", "failing", "stalled"]
Tell = Callable[[str, Mapping[str, Any]], None]
"""Takes the kind of an event ("health", "ejection") and what happened."""

OFF: Final = ejection.Settings(consecutive_local=0, consecutive_remote=0, failure_share=2.0)
"""No failure ejects."""

RESULTS: Final[dict[str, int]] = {"backend_status": ejection.REMOTE}
"""What an error code means for an address's health; what is not here is a local failure."""

MIN_FAILING: Final = 5
"""Failed attempts in a row after which an address is called failing, whether or not it may be ejected."""


@dataclass(slots=True)
class Failing:
    """The run of failed attempts that an address is in. ``since`` is of `perf_counter`."""

    since: float
    attempts: int = 0
    error: str = ""
    """The code of the last of them."""


class Health:
    """See the module. Times are of `perf_counter`."""

    __slots__ = (
        "_answer",
        "_asked",
        "_failing",
        "_group",
        "_places",
        "_records",
        "_returning",
        "backend",
        "degraded",
        "stall_detection",
        "tell",
    )

    def __init__(self, backend: str, tell: Tell) -> None:
        self.backend = backend
        self.tell = tell
        self._group = ejection.Group(())
        self._records: dict[Address, ejection.Address] = {}
        self._places: dict[str, Address] = {}
        self._failing: dict[Address, Failing] = {}
        self._returning: set[Address] = set()
        """Ejected ones whose return is still to be told."""
        self._asked: tuple[ejection.Address, ...] | None = None
        self._answer: tuple[Address, ...] = ()
        self.degraded = False
        """Whether any address is out, under suspicion or starting slowly."""
        self.stall_detection = True
        """Whether silence is held against an address."""

    def configure(self, addresses: Sequence[Address], settings: ejection.Settings) -> None:
        """Takes over a configuration; what is known of the addresses that stay is kept."""
        self._places = {address.name: address for address in addresses}
        self._group.update(self._places, settings)
        self._records = {a: self._group.addresses[a.name] for a in addresses}
        self._returning &= self._records.keys()
        self._failing = {a: run for a, run in self._failing.items() if a in self._records}
        self._asked = None
        self.tick(perf_counter())

    # What is seen -----------------------------------------------------------------------------------
    def good(self, address: Address, now: float) -> None:
        """An answer of ``address`` began, and it is no error."""
        record = self._records.get(address)
        if record is not None:
            self._group.observe(record, ejection.OK, now)
            if self._failing:
                self._recovered(address)

    def failed(self, address: Address, code: str, now: float) -> None:
        """An attempt at ``address`` failed with the error ``code``; may eject it."""
        record = self._records.get(address)
        if record is None:  # a configuration without it came meanwhile
            return
        self._count(address, code, now)
        reason = self._group.observe(record, RESULTS.get(code, ejection.LOCAL), now)
        if reason:
            self.degraded = True
            self._returning.add(address)
            self._report("ejection", address, "ejected", reason, seconds=round(record.ejected_until - now, 3))

    def _count(self, address: Address, code: str, now: float) -> None:
        run = self._failing.setdefault(address, Failing(now))
        run.attempts += 1
        run.error = code
        if run.attempts == MIN_FAILING:
            self._report(
                "health", address, "failing", f"{run.attempts} attempts in a row failed, the last with {code}"
            )

    def _recovered(self, address: Address) -> None:
        run = self._failing.pop(address, None)
        if run is not None and run.attempts >= MIN_FAILING:
            self._report(
                "health", address, "healthy", f"it answers again, after {run.attempts} failed attempts"
            )

    def failing(self, address: Address) -> Failing | None:
        """The run of failures that ``address`` is in; None below `MIN_FAILING`."""
        run = self._failing.get(address)
        return run if run is not None and run.attempts >= MIN_FAILING else None

    def probed(self, address: Address, *, healthy: bool, reason: str, now: float) -> None:
        """Active probes have come to another verdict on ``address``."""
        record = self._records.get(address)
        if record is None or record.healthy == healthy:
            return
        self._group.mark(record, healthy=healthy)
        if healthy:
            record.returned = now  # so that it starts slowly
            self._failing.pop(address, None)
        self.degraded = True
        self._report("health", address, "healthy" if healthy else "unhealthy", reason)

    def unwatched(self, name: str) -> None:
        """The address of this name is probed no more, so what its last probes said is forgotten."""
        record = self._group.addresses.get(name)
        if record is not None:
            self._group.mark(record, healthy=True)

    def report_stall(self, address: Address, waiting: int, seconds: float) -> None:
        """``address`` has fallen silent while requests wait."""
        if address not in self._records or not self.stall_detection:
            return
        self.degraded = True
        self._report(
            "health", address, "stalled", f"silent for over {seconds:.3f} s while {waiting} requests wait"
        )

    def recheck_stall(self, address: Address, milliseconds: float, now: float) -> None:
        """A stalled address has responded: it is healthy if as quickly as usual, else another probe may start."""
        if milliseconds <= address.stall_timeout() * 1e3:
            address.stalled = False
            self._report("health", address, "healthy", "it answers again")
        else:
            address.next_probe_at = now

    def _report(self, kind: str, address: Address, state: str, reason: str, **more: object) -> None:
        data = {"backend": self.backend, "address": address.name, "state": state, "reason": reason}
        self.tell(kind, {**data, **more})

    # What may be used -------------------------------------------------------------------------------
    def usable(self, now: float, *, strict: bool = False) -> tuple[Address, ...]:
        """Those that may be used; all of them in a panic, unless ``strict`` and none is well."""
        if strict and not any(r.healthy and not r.ejected(now) for r in self._records.values()):
            return ()
        found = self._group.usable(now)
        if found is not self._asked:
            self._asked = found
            self._answer = tuple(self._places[record.name] for record in found)
        return self._answer

    def weight(self, address: Address, now: float) -> float:
        """The share of ``address`` relative to a settled one."""
        record = self._records.get(address)
        return 1.0 if record is None else record.weight(now, self._group.settings)

    def state(self, address: Address, now: float) -> State:
        """What ``address`` did last: ``failing`` ones are used all the same, where there is no other."""
        barred = self.barred(address, now)
        if barred in ("healthy", "stalled") and self.failing(address) is not None:
            return "failing"
        return barred

    def barred(self, address: Address, now: float) -> State:
        """Why ``address`` may not be used; ``healthy``: it may."""
        record = self._records.get(address)
        if record is not None and not record.healthy:
            return "unhealthy"
        if record is not None and record.ejected(now):
            return "ejected"
        return "stalled" if address.stalled and self.stall_detection else "healthy"

    # Time -------------------------------------------------------------------------------------------
    def tick(self, now: float) -> None:
        """Tells of addresses that came back, and finds out whether all is well again; about once a second."""
        for address in tuple(self._returning):
            if not self._records[address].ejected(now):
                self._returning.discard(address)
                self._report("ejection", address, "returned", "its time is over")
        self.degraded = any(
            self.barred(address, now) != "healthy" or self.weight(address, now) < 1.0
            for address in self._records
        )
