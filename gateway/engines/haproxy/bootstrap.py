"""What a node starts with: where it listens, where its agent keeps its files, and what the agent needs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from gateway.engines.haproxy.config import BIND, FILES

ROUTES: Final = "routes.cfg"
ADMIN_SOCKET: Final = "admin.sock"
MASTER_SOCKET: Final = "master.sock"
_AGENT: Final = "# turnout agent: "
_FOLDER: Final = re.compile(r"/[A-Za-z0-9/._-]{1,80}")
"""What a path in a converter's arguments and in the address of a socket may hold."""


@dataclass(frozen=True, slots=True)
class Node:
    """One process of an engine, and what its agent needs."""

    engine: str
    name: str
    token: str
    control: str
    """URL of the gateway's control API."""
    files: str
    """Folder of the agent's files and sockets."""
    ca: str | None
    """File with the CAs to trust for an https ``control``."""

    def __post_init__(self) -> None:
        """Raises ValueError if HAProxy cannot name the folder."""
        if not _FOLDER.fullmatch(self.files):
            raise ValueError(
                f"HAProxy cannot use the folder {self.files!r}; write an absolute path of at most 80 letters, digits, "
                "'.', '_', '-' and '/'"
            )

    @classmethod
    def read(cls, text: str) -> Self:
        """The node of a bootstrap. Raises ValueError if it is none."""
        first, _, _ = text.partition("\n")
        if not first.startswith(_AGENT):
            raise ValueError("this is not a node's configuration; make it with 'turnout engine bootstrap'")
        try:
            return cls(**json.loads(first.removeprefix(_AGENT)))
        except TypeError:
            raise ValueError("its first line is not as 'turnout engine bootstrap' wrote it") from None

    @property
    def secure(self) -> bool:
        """Whether ``control`` is an https address, which must be verified: the token goes there."""
        return urlsplit(self.control).scheme == "https"

    @property
    def folder(self) -> Path:
        """Where its files and sockets are."""
        return Path(self.files)


def bootstrap(node: Node, listen: str) -> str:
    """HAProxy's own part of the configuration. ``listen``: address that clients use."""
    folder = node.folder
    return f"""\
{_AGENT}{json.dumps(asdict(node))}
#
# Start the agent first, and HAProxy once it has written {ROUTES}; the path of this file must be absolute:
#
#   turnout engine agent /PATH/OF/THIS/FILE
#   haproxy -W -S {folder / MASTER_SOCKET} -f /PATH/OF/THIS/FILE -f {folder / ROUTES}
#
# {BIND} is what follows 'bind', options such as 'ssl crt FILE' included.
global
  stats socket {folder / ADMIN_SOCKET} mode 600 level admin expose-fd listeners
  setenv {BIND} "{listen}"
  setenv {FILES} {folder}
"""
