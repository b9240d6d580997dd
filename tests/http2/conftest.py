from __future__ import annotations

from gateway import build
from tests.wire.conftest import rig, shared_rig

__all__ = ["rig", "shared_rig"]

collect_ignore = (
    ["test_corpus.py", "test_floods.py", "test_flow_control.py", "test_streams.py"]
    if build.form() == "compiled"  # these derive from the layer without I/O; those on sockets try it too
    else []
)
