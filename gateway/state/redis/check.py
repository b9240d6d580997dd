"""Settings of a Redis that put the record at risk, looked up when it is opened.

The gateway's user may not be allowed to ask; then the warning says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from gateway.state.base import StoreUnavailable
from gateway.state.redis.link import Link

_MIN_VERSION: Final = 7
"""The first major version that the tests run on."""
_WRITES: Final[tuple[tuple[str, ...], ...]] = (
    ("SET", "k", "v"),
    ("INCR", "k"),
    ("HSET", "k", "f", "v"),
    ("HINCRBY", "k", "f", "1"),
    ("HDEL", "k", "f"),
    ("ZADD", "k", "1", "m"),
    ("ZREM", "k", "m"),
    ("RPUSH", "k", "v"),
    ("XADD", "k", "*", "f", "v"),
    ("PEXPIREAT", "k", "1"),
    ("DEL", "k"),
    ("MULTI",),
    ("EXEC",),
)
"""What the scripts leave in an append-only file, with a key in the second place."""


class Doubt(NamedTuple):
    """Something to be warned about. ``code``: of the alarm; "" for a line in the log alone."""

    code: str
    message: str


async def doubts(link: Link) -> list[Doubt]:
    """Raises StoreUnavailable when the server can't be reached."""
    found = [await _version(link)]
    settings = await _settings(link)
    if settings is None:
        found.append(
            Doubt(
                "",
                f"It is unknown whether the store {link.shown} keeps over a restart what it acknowledged: the "
                "gateway's user may ask neither CONFIG GET nor INFO. Allow it +config|get +acl|dryrun (docs/redis.md).",
            )
        )
    else:
        found += [_durability(link, settings), _eviction(link, settings)]
        if settings.get("appendonly") == "yes":
            found.append(await _default_user(link))
    return [doubt for doubt in found if doubt is not None]


async def _version(link: Link) -> Doubt | None:
    hello = _as_mapping(await link.of_server("HELLO"))
    version = hello.get("version", "")
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) >= _MIN_VERSION:
        return None
    return Doubt(
        "store_version",
        f"The store {link.shown} runs Redis {version}; use {_MIN_VERSION} or later, as the tests do.",
    )


async def _settings(link: Link) -> Mapping[str, str] | None:
    """`appendonly` at least; None when the server won't say."""
    try:
        found = _as_mapping(await link.of_server("CONFIG", "GET", "append*"))
        return found | _as_mapping(await link.of_server("CONFIG", "GET", "maxmemory*"))
    except StoreUnavailable:
        pass  # managed services refuse CONFIG, and a user of few rights may not ask
    try:
        info = await link.of_server("INFO", "persistence")
    except StoreUnavailable:
        return None
    enabled = info["aof_enabled"] if isinstance(info, dict) else int("aof_enabled:1" in _text(info))
    return {"appendonly": "yes" if int(enabled) else "no"}


def _durability(link: Link, settings: Mapping[str, str]) -> Doubt | None:
    if settings.get("appendonly") == "no":
        return Doubt(
            "store_not_durable",
            f"The store {link.shown} runs with 'appendonly no': a restart loses acknowledged rewards. "
            "Set 'appendonly yes' and 'appendfsync always'.",
        )
    if settings.get("appendfsync") == "no":
        return Doubt(
            "store_not_durable",
            f"The store {link.shown} runs with 'appendfsync no': a crash of its machine loses "
            "acknowledged rewards. Set 'appendfsync always', or 'everysec' if a second may be lost.",
        )
    return None


def _eviction(link: Link, settings: Mapping[str, str]) -> Doubt | None:
    policy = settings.get("maxmemory-policy", "noeviction")
    if settings.get("maxmemory", "0") == "0" or policy == "noeviction":
        return None
    return Doubt(
        "store_evicts",
        f"The store {link.shown} runs with 'maxmemory-policy {policy}': out of memory, it deletes parts of the record. "
        "Set 'maxmemory-policy noeviction'; rewards then wait in the spool until there is room.",
    )


async def _default_user(link: Link) -> Doubt | None:
    """An append-only file is loaded as the default user, and some versions then check what that user may run in a
    transaction: each script is one (redis#14541)."""
    key = f"{link.of_all}:x"
    try:
        for command, *arguments in _WRITES:
            dry = ("ACL", "DRYRUN", "default", command, *(key if a == "k" else a for a in arguments))
            if _text(await link.of_server(*dry)) != "OK":
                break
        else:
            return None
    except StoreUnavailable:
        return Doubt(
            "",
            f"It is unknown whether the store {link.shown} keeps over a restart what its scripts wrote: the gateway's "
            "user may not ask what the default user may do. Allow it +acl|dryrun (docs/redis.md).",
        )
    return Doubt(
        "store_loses_scripts",
        f"The store {link.shown} will lose ALL rewards, sums and rollout states at its next restart: its user "
        "'default' may not write, and Redis drops what that user may not do when it loads an append-only file "
        "(redis#14541). "
        "Let it write and keep it locked: ACL SETUSER default off resetpass ~* &* +@all (docs/redis.md).",
    )


def _as_mapping(reply: Any) -> dict[str, str]:
    items = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(key): _text(value) for key, value in items}


def _text(given: Any) -> str:
    return given.decode() if isinstance(given, bytes) else str(given)
