"""The health of a backend's addresses: by probes, by their responses, and by stalls.

There is one `Health` for each backend of the configuration, kept across edits. `policies.ejection` decides on
ejections; this module applies it to the addresses. While all addresses are healthy, a request costs one
observation, and the choice between addresses skips this module (`Health.degraded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Literal

from gateway.transport.address import Address
from policies import ejection

State = Literal["healthy", "unhealthy", "ejected", "failing", "stalled"]
Report = Callable[[str, Mapping[str, Any]], None]
"""Receives an event: its kind ("health" or "ejection") and its data."""

OFF: Final = ejection.Settings(consecutive_local=0, consecutive_remote=0, failure_share=2.0)
"""Settings with which no failure ejects an address."""

RESULTS: Final[dict[str, int]] = {"backend_status": ejection.REMOTE}
"""Error code → kind of failure; other codes are local failures."""

MIN_FAILED_ATTEMPTS: Final = 5
"""Consecutive failed attempts after which an address is reported as failing, even if it may not be ejected."""


@dataclass(slots=True)
class Failing:
    """Consecutive failed attempts at one address."""

    since: float
    """`perf_counter` at the first."""
    attempts: int = 0
    error: str = ""
    """Error code of the last."""


class Health:
    """Health of the addresses of one backend. Times are values of `perf_counter`."""

    __slots__ = (
        "_by_name",
        "_ejected",
        "_failing",
        "_group",
        "_probed",
        "_records",
        "_usable",
        "_usable_records",
        "backend",
        "degraded",
        "report",
        "stall_detection",
    )

    def __init__(self, backend: str, report: Report) -> None:
        self.backend = backend
        self.report = report
        self._group = ejection.Group(())
        self._records: dict[Address, ejection.Address] = {}
        self._by_name: dict[str, Address] = {}
        self._failing: dict[Address, Failing] = {}
        self._ejected: set[Address] = set()
        """Addresses whose ejection was reported and whose return was not."""
        self._probed: set[Address] = set()
        """Addresses that a probe found healthy."""
        self._usable_records: tuple[ejection.Address, ...] | None = None
        self._usable: tuple[Address, ...] = ()
        self.degraded = False
        """Whether any address is unhealthy, ejected, stalled or in slow start."""
        self.stall_detection = True
        """Whether a stalled address is avoided."""

    def configure(self, addresses: Sequence[Address], settings: ejection.Settings) -> None:
        """Apply a configuration; addresses that stay keep their state."""
        self._by_name = {address.name: address for address in addresses}
        self._group.update(self._by_name, settings)
        self._records = {a: self._group.addresses[a.name] for a in addresses}
        self._ejected &= self._records.keys()
        self._probed &= self._records.keys()
        self._failing = {a: run for a, run in self._failing.items() if a in self._records}
        self._usable_records = None
        self.tick(perf_counter())

    # Observations -----------------------------------------------------------------------------------
    def good(self, address: Address, now: float) -> None:
        """Record a response of ``address`` that is not an error."""
        record = self._records.get(address)
        if record is not None:
            self._group.observe(record, ejection.OK, now)
            if self._failing:
                self._recovered(address)

    def failed(self, address: Address, code: str, now: float) -> None:
        """Record a failed attempt at ``address`` with the error ``code``; may eject it."""
        record = self._records.get(address)
        if record is None:  # no longer in the configuration
            return
        self._count(address, code, now)
        reason = self._group.observe(record, RESULTS.get(code, ejection.LOCAL), now)
        if reason:
            self.degraded = True
            self._ejected.add(address)
            self._report("ejection", address, "ejected", reason, seconds=round(record.ejected_until - now, 3))

    def _count(self, address: Address, code: str, now: float) -> None:
        run = self._failing.setdefault(address, Failing(now))
        run.attempts += 1
        run.error = code
        if run.attempts == MIN_FAILED_ATTEMPTS:
            self._report(
                "health", address, "failing", f"{run.attempts} attempts in a row failed, the last one: {code}"
            )

    def _recovered(self, address: Address) -> None:
        run = self._failing.pop(address, None)
        if run is not None and run.attempts >= MIN_FAILED_ATTEMPTS:
            self._report(
                "health", address, "healthy", f"it responds again, after {run.attempts} failed attempts"
            )

    def failing(self, address: Address) -> Failing | None:
        """The consecutive failures of ``address``; None if there are less than `MIN_FAILED_ATTEMPTS`."""
        run = self._failing.get(address)
        return run if run is not None and run.attempts >= MIN_FAILED_ATTEMPTS else None

    def probed(self, address: Address, *, healthy: bool, reason: str, now: float) -> None:
        """Record what active probes have found out about ``address``."""
        record = self._records.get(address)
        if record is not None and healthy:
            self._probed.add(address)
        if record is None or record.healthy == healthy:
            return
        self._group.mark(record, healthy=healthy)
        if healthy:
            record.returned = now  # so that it starts slowly
            self._failing.pop(address, None)
        self.degraded = True
        self._report("health", address, "healthy" if healthy else "unhealthy", reason)

    def unwatched(self, name: str) -> None:
        """Forget what probes said of the address ``name``, which is not probed any more."""
        record = self._group.addresses.get(name)
        if record is not None:
            self._group.mark(record, healthy=True)

    def report_stall(self, address: Address, waiting: int, seconds: float) -> None:
        """Report that nothing came from ``address`` for ``seconds`` while requests wait."""
        # An address may belong to several backends, each with settings of its own.
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
            self._report("health", address, "healthy", "it responds again")
        else:
            address.next_probe_at = now

    def _report(self, kind: str, address: Address, state: str, reason: str, **more: object) -> None:
        data = {"backend": self.backend, "address": address.name, "state": state, "reason": reason}
        self.report(kind, {**data, **more})

    # Usable addresses -------------------------------------------------------------------------------
    def usable(self, now: float, *, strict: bool = False) -> tuple[Address, ...]:
        """Addresses that may be used; all in a panic (`ejection.Group`), unless ``strict`` and none is healthy."""
        if strict and not any(r.healthy and not r.ejected(now) for r in self._records.values()):
            return ()
        found = self._group.usable(now)
        if found is not self._usable_records:
            self._usable_records = found
            self._usable = tuple(self._by_name[record.name] for record in found)
        return self._usable

    def weight(self, address: Address, now: float) -> float:
        """Share of ``address`` relative to an address that is not in slow start."""
        record = self._records.get(address)
        return 1.0 if record is None else record.weight(now, self._group.settings)

    def state(self, address: Address, now: float) -> State:
        """State for display: `barred`, or ``failing`` for an address that is used although its attempts fail."""
        barred = self.barred(address, now)
        if barred in ("healthy", "stalled") and self.failing(address) is not None:
            return "failing"
        return barred

    def responded(self, address: Address) -> bool:
        """Whether a request has had a response from ``address``, or a probe a good one."""
        return address.last_byte_at > 0.0 or address in self._probed

    def barred(self, address: Address, now: float) -> State:
        """Why ``address`` may not be used; ``healthy`` if it may."""
        record = self._records.get(address)
        if record is not None and not record.healthy:
            return "unhealthy"
        if record is not None and record.ejected(now):
            return "ejected"
        return "stalled" if address.stalled and self.stall_detection else "healthy"

    # Time -------------------------------------------------------------------------------------------
    def tick(self, now: float) -> None:
        """Report ended ejections and update `degraded`; called about once a second."""
        for address in tuple(self._ejected):
            if not self._records[address].ejected(now):
                self._ejected.discard(address)
                self._report("ejection", address, "returned", "its ejection is over")
        self.degraded = any(
            self.barred(address, now) != "healthy" or self.weight(address, now) < 1.0
            for address in self._records
        )
