"""The Lua scripts in `lua/`: each is one atomic step on the keys of one route (or of no route), which share a slot.

``KEYS[1]`` of a script is the prefix of all keys of the step; it carries the hash tag. A line ``-- include: NAME``
stands for `lua/shared/NAME.lua`, once.
"""

from __future__ import annotations

import re
from hashlib import sha1
from pathlib import Path
from typing import Final

_LUA: Final = Path(__file__).parent / "lua"
_INCLUDE: Final = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


class Script:
    """Lua source, and the digest that a server knows it by."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, name: str) -> Script:
        """The script in `lua/NAME.lua`, with what it includes."""
        return cls(expand((_LUA / f"{name}.lua").read_text(encoding="utf-8")))


def expand(source: str, included: set[str] | None = None) -> str:
    """Replace each include by the shared source; a later one of the same name by nothing."""
    known = set[str]() if included is None else included

    def shared(found: re.Match[str]) -> str:
        name = found[1]
        if name in known:
            return ""
        known.add(name)
        return expand((_LUA / "shared" / f"{name}.lua").read_text(encoding="utf-8"), known)

    return _INCLUDE.sub(shared, source)
