"""Strict JSON of callers of the control API, read where it holds nobody up."""

from __future__ import annotations

import json
from typing import Any, Final, Never

from gateway.errors import TurnoutError
from gateway.runtime.side_process import SideProcess

LOOP_BYTES: Final = 16_384
"""Longer bodies are read in another process."""
MAX_VALUES: Final = 200_000
"""Most commas of a body: what is read is handed from process to process."""
MAX_WAITING: Final = 16


class JsonReader:
    """Reads JSON bodies, long ones in a process of its own."""

    def __init__(self) -> None:
        self._aside = SideProcess[tuple[Any, str]](MAX_WAITING)

    async def read(self, body: bytes) -> Any:
        """The document. Raises TurnoutError (bad_json, body_too_large, gateway_overloaded)."""
        if len(body) <= LOOP_BYTES:
            value, fault = parse(body)
        elif body.count(b",") > MAX_VALUES:
            raise TurnoutError(
                "body_too_large", f"The body has more than {MAX_VALUES} values; send less at once."
            )
        else:
            value, fault = await self._aside.run(parse, body)
        if fault:
            raise TurnoutError("bad_json", fault)
        return value

    def close(self) -> None:
        """Ends the process."""
        self._aside.close()


def parse(body: bytes) -> tuple[Any, str]:
    """The document and "", or None and what is wrong: no NaN, no Infinity, whole characters."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        return value, ""
    except json.JSONDecodeError as error:
        return None, f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
    except UnicodeDecodeError:
        return None, "The body is not valid UTF-8; send JSON in UTF-8."
    except UnicodeEncodeError:
        return None, "The body holds half of a surrogate pair; send whole characters."
    except (ValueError, RecursionError) as error:
        return None, f"The body is not valid JSON: {error}."


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON number")
