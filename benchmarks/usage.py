"""CPU time and memory of a child and its descendants, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SESSION, _USER, _SYSTEM, _RSS = 3, 11, 12, 21
"""Positions in /proc/PID/stat behind the closing bracket of the name (proc(5), fields 6, 14, 15, 24)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """``cpu_us``: user + system microseconds of all threads; ``rss``: resident bytes; ``count``: processes.

    The kernel keeps these times exactly (from the scheduler, not by sampling) and shows them in ticks
    of 10 ms, so a window of two busy seconds is known to half a percent.
    """

    cpu_us: float
    rss: int
    count: int


def usage(session: int) -> Usage:
    """Summed over every living process of ``session``; what an ended one used is not in it."""
    cpu, rss, count = 0.0, 0, 0
    for _, fields in _stats():
        if int(fields[_SESSION]) == session and fields[0] != "Z":
            cpu += (int(fields[_USER]) + int(fields[_SYSTEM])) * _TICK_US
            rss += int(fields[_RSS]) * _PAGE
            count += 1
    return Usage(cpu, rss, count)


def process_cpu_us(pid: int) -> float:
    """User and system microseconds of one process."""
    return next(
        sum(map(int, fields[_USER : _SYSTEM + 1])) * _TICK_US for one, fields in _stats() if one == pid
    )


def _stats() -> list[tuple[int, list[str]]]:
    """(pid, the fields behind the name) of every process."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                text = Path(entry.path, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append((int(entry.name), text[text.rindex(")") + 2 :].split()))
    return found


def core_busy_us(core: int) -> float:
    """Microseconds that ``core`` has not been idle since boot (steal by other guests included)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (int(field) for field in fields)
            return (user + nice + system + irq + softirq + steal) * _TICK_US
    raise ValueError(f"there is no core {core} in /proc/stat")


def reset_peak(session: int) -> int:
    """Forgets the memory peaks of ``session`` so far; returns what is resident now, in bytes."""
    for pid in _pids(session):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return usage(session).rss


def peak(session: int) -> int:
    """The most that each process of ``session`` had resident since `reset_peak`, summed; bytes."""
    lines = [
        line
        for pid in _pids(session)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def _pids(session: int) -> list[int]:
    return [pid for pid, fields in _stats() if int(fields[_SESSION]) == session]
