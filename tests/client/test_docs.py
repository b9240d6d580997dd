"""The program in docs/client.md runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.processes import GatewayProcess

PAGE = Path(__file__).parents[2] / "docs/client.md"


def test_the_blocks_run_as_one_program(gateway: GatewayProcess) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    program = "\n".join(blocks).replace("http://127.0.0.1:8080", gateway.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    _, outputs, reported = done.stdout.splitlines()
    assert outputs == "{'echo': [[0.0, 0.0]]}"
    # The background thread may have sent the same reward first.
    assert reported in (
        "{'accepted': 0, 'duplicates': 0, 'updated': 1}",
        "{'accepted': 0, 'duplicates': 1, 'updated': 0}",
    )
