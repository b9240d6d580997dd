"""What a text that did not come from the configuration file may name: what the file names too.

Its author could read the values of other variables and files out, run programs by writing to other files, and write
to other buckets with the gateway's credentials.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from gateway.config.explain import holds
from gateway.config.faults import KeyPath
from gateway.config.references import Finding
from gateway.config.yaml_text import read

_WRITTEN: Final = (("telemetry", "access_log"), ("record", "archive"))
"""Keys of what the gateway writes to, with its own rights and credentials, as soon as a text is in force."""
_WRITE: Final = "write:"
_STANDARD_OUTPUT: Final = "-"


def permitted(text: str, env: Mapping[str, str]) -> frozenset[str]:
    """The variables, ``file:PATH`` that are read and ``write:PATH`` that are written to, as ``text`` names them.

    Looks at values as YAML reads them: the text may spell ``$`` as ``\\x24``, or continue in the next line. Empty if
    the text can't be parsed.
    """
    tree, _ = read(text, env)
    if tree is None:
        return frozenset()
    return frozenset(tree.variables) | {_WRITE + place for _, place in _written(tree.data)}


def refused_places(data: Any, allowed: Collection[str]) -> Iterator[Finding]:
    """The files and archives that parsed ``data`` has the gateway write to although they are not ``allowed``."""
    for path, place in _written(data):
        if _WRITE + place not in allowed:
            message = f"the file does not name {place!r} here, so other texts may not have it written"
            yield Finding(path, message, "name it in the configuration file first")


def _written(data: Any) -> Iterator[tuple[KeyPath, str]]:
    for path in _WRITTEN:
        value = data
        for key in path:
            value = value[key] if holds(value, key) else None
        if isinstance(value, str) and value != _STANDARD_OUTPUT:
            yield path, value
