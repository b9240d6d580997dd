"""Where everything that outlives a process is kept; `open_store` picks the kind by its address."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from gateway.state.store import Store


def open_store(url: str) -> Store:
    """The store at an address, not opened yet.

    ``sqlite:///relative.db``, ``sqlite:////absolute.db``; ``redis://host:port/db``, ``rediss://`` (TLS),
    ``redis+cluster://`` and ``rediss+cluster://``. Raises ValueError for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        path = unquote(parts.path)[1:]
        if parts.netloc or not path or path.endswith("/"):
            raise ValueError(
                f"{url!r} names no file; write sqlite:///turnout.db, or sqlite:////var/lib/turnout/turnout.db"
            )
        from gateway.state.sqlite import SqliteStore

        return SqliteStore(path)
    if parts.scheme in ("redis", "rediss", "redis+cluster", "rediss+cluster"):
        from gateway.state.redis import RedisStore

        return RedisStore(url)
    raise ValueError(f"{url!r} is not a store; write sqlite:///FILE or redis://HOST:6379/0")
