"""Strict JSON bodies of the control API, parsed without blocking the event loop."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Final, Never

from gateway.errors import TurnoutError
from gateway.runtime.side_process import SideProcess

LOOP_BYTES: Final = 16_384
"""Longer bodies are parsed in another process."""
MAX_VALUES: Final = 200_000
"""Maximum number of commas in a body, since the values are passed between processes."""
VALUES_PER_PIECE: Final = 2_000
"""About how many values are unpacked in one turn of the event loop: some tenths of a millisecond."""
MAX_WAITING_BODIES: Final = 16
_TOO_DEEP: Final = "The body is nested too deeply; send it flatter."


_Piece = tuple[str | None, bytes]
"""Pickled: the document itself (None), without the items of long lists, or further items of the list with this key."""


class JsonReader:
    """Parses JSON bodies, long ones in another process."""

    def __init__(self) -> None:
        self._aside = SideProcess[tuple[list[_Piece], str]](MAX_WAITING_BODIES)

    async def read(self, body: bytes) -> Any:
        """Return the document. Raises TurnoutError (bad_json, body_too_large, gateway_overloaded)."""
        if len(body) <= LOOP_BYTES:
            value, fault = parse(body)
        elif body.count(b",") > MAX_VALUES:
            raise TurnoutError(
                "body_too_large",
                f"The body has more than {MAX_VALUES} values; send them in several requests.",
            )
        else:
            pieces, fault = await self._aside.run(_parse_aside, body)
            value = await _joined(pieces)
        if fault:
            raise TurnoutError("bad_json", fault)
        return value

    def close(self) -> None:
        """End the process."""
        self._aside.close()


class _NotJson(ValueError):
    """Python's parser accepts more than JSON."""


def parse(body: bytes) -> tuple[Any, str]:
    """Return the document and "", or None and the fault: NaN, Infinity and half characters are refused."""
    try:
        # Decoded here: json.loads takes UTF-16 too, and half characters written as bytes, which no store can hold.
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is not text
        return value, ""
    except json.JSONDecodeError as error:
        return None, f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
    except UnicodeDecodeError:
        return None, "The body is not valid UTF-8; send JSON in UTF-8."
    except UnicodeEncodeError:
        return None, "The body holds half of a surrogate pair; send whole characters."
    except RecursionError:
        return None, _TOO_DEEP
    except _NotJson as error:
        return None, f"The body is not valid JSON: {error}."
    except ValueError:
        return None, "A number of the body has too many digits; send it shorter."


def _parse_aside(body: bytes) -> tuple[list[_Piece], str]:
    """`parse`, for another process: half the depth that the parser takes can't be passed back."""
    value, fault = parse(body)
    try:
        return list(_pieces(value, body.count(b",") // VALUES_PER_PIECE + 1)), fault
    except RecursionError:
        return [], _TOO_DEEP


def _pieces(document: Any, number: int) -> Iterator[_Piece]:
    """The document, its lists in about ``number`` parts: unpacked as one it would hold up the event loop."""
    lists = {}
    if isinstance(document, dict):
        lists = {key: part for key, part in document.items() if isinstance(part, list) and len(part) > 1}
        document = document | {key: [] for key in lists}
    yield None, pickle.dumps(document)
    for key, part in lists.items():
        step = -(-len(part) // number)
        for start in range(0, len(part), step):
            yield key, pickle.dumps(part[start : start + step])


async def _joined(pieces: Sequence[_Piece]) -> Any:
    document: Any = None
    for key, data in pieces:
        if key is None:
            document = pickle.loads(data)
        else:
            document[key] += pickle.loads(data)
        await asyncio.sleep(0)
    return document


def _no_constant(name: str) -> Never:
    raise _NotJson(f"{name} is not a JSON number")
