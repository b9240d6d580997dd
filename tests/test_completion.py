"""Completion scripts, in the shells themselves where they are installed (bash always is)."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.cli import COMMANDS
from gateway.commands.completion import SCRIPTS, main


@pytest.fixture
def script(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    main(argparse.Namespace(shell=request.param))
    return capsys.readouterr().out


def completed(script: str, *words: str) -> set[str]:
    """What bash offers for the last of ``words``."""
    line = " ".join(f"'{word}'" for word in words)
    tail = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _turnout; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    bash = ["bash", "--norc", "-c", f"{script}\n{tail}"]
    return set(subprocess.run(bash, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_commands_options_and_values(script: str) -> None:
    assert completed(script, "turnout", "ro") == {"rollout"}
    assert completed(script, "turnout", "") == set(COMMANDS)
    assert completed(script, "turnout", "run", "--wo") == {"--workers"}
    assert completed(script, "turnout", "rollout", "digits", "pro") == {"promote"}
    assert completed(script, "turnout", "init", "--policy", "sh") == {"shadow"}
    assert completed(script, "turnout", "keys", "n") == {"new"}


@pytest.mark.parametrize("script", SCRIPTS, indirect=True)
def test_every_script_names_every_command_and_option(script: str) -> None:
    assert [name for name in COMMANDS if name not in script] == []
    for word in ("workers", "promote", "watch", "shadow"):
        assert word in script


@pytest.mark.parametrize("script", SCRIPTS, indirect=True)
def test_the_shell_reads_its_script(script: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shell = request.node.callspec.params["script"]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script)
    read = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")
