"""The command `turnout`, in the test's own process: a process of its own imports everything again, for a second."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from gateway.cli import main


def turnout(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; ``env`` adds to the environment."""
    written, remarks = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(to, write_through=True) for to in (written, remarks))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        try:
            code = main(words)
        except SystemExit as end:  # argparse's
            code = int(end.code or 0)
    return subprocess.CompletedProcess(words, code, written.getvalue().decode(), remarks.getvalue().decode())
