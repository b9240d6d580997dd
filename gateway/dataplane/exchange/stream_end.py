"""Whether a streamed response is complete before its connection says so.

Servers of language models end a stream with a terminal event, and close the message some time after it. Clients
stop reading there: the synchronous openai SDK closes its connection at ``data: [DONE]``. Such a client has
received everything, so its request succeeded.
"""

from __future__ import annotations

import re
from typing import Final

TAIL_BYTES: Final = 128
"""Bytes at the end of a response that hold a terminal event, with the padding that some servers add."""

_TERMINAL_EVENT: Final = re.compile(
    rb'(?:\A|[\r\n])data: ?(?:\[DONE\]|\{\s*"type":\s*"message_stop"\s*\})\s*\Z'
)
"""Of OpenAI's chat and text completions, and of Anthropic's messages."""


def is_whole(tail: bytes) -> bool:
    """Whether a response whose last bytes are ``tail`` ends with a stream's terminal event."""
    return _TERMINAL_EVENT.search(tail) is not None
