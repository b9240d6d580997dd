"""Bytes of a hostile or careless HTTP/2 client, and what must come of each.

``expected`` is "goaway CODE" (the connection ends), "reset CODE" (stream 1 ends, the connection serves on) or the
status of the response on stream 1; "" if only the gateway can say. ``gateway`` names the status where only the
whole gateway can judge; the layer below then serves the request.
"""

from __future__ import annotations

from tests.http2 import corpus_downgrade, corpus_frames, corpus_messages

CASES = (*corpus_frames.cases(), *corpus_messages.cases(), *corpus_downgrade.cases())
