"""Logging with one line per event, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from gateway.config.service import LogConfig
from gateway.telemetry.printable import printable

_STANDARD_KEYS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _continued(text: str) -> str:
    return printable(text).replace("\n", "\n  ")


class TextFormatter(logging.Formatter):
    """Formats a record as text, of which only the first line can look like an entry."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return _continued(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return _continued(super().formatException(ei))  # its message may be a client's words, too


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object, with the keys of ``extra`` as fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD_KEYS})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(settings: LogConfig) -> None:
    """Configure the root logger of this process, replacing its handlers."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # The gateway logs its own start and stop.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # httpx logs every request that it makes.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
