"""Completion scripts, in the shells themselves (`make tools` installs them)."""

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


ZSH = r"""
fpath=($PWD $fpath)
autoload -U compinit; compinit -D -u
compadd() {
  local -a found
  [[ " $* " == *\ -[OAD]\ * ]] || { builtin compadd -A found "$@"; print -rl -- $found >> offered }
  builtin compadd "$@"
}
comppostfuncs=(exit)
bindkey '^I' complete-word
print READY
"""
"""What an interactive zsh reads: it writes what it offers to a file, and ends."""
TYPE_ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell source ./within
zpty -r -m shell found '*READY*'
zpty -n -w shell "$1"$'\t'
while zpty -r shell; do :; done
"""
TYPE_BASH = """
source ./script
COMP_WORDS=($1); [[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _turnout; printf '%s\n' "${COMPREPLY[@]}" > offered
"""
TYPE_FISH = "source ./script; complete -C $argv[1] | string replace -r '\\t.*' '' > offered; true"
TYPE = {
    "bash": ["bash", "--norc", "-c", TYPE_BASH, "-"],
    "zsh": ["zsh", "-f", "-c", TYPE_ZSH, "-"],
    "fish": ["fish", "--no-config", "-c", TYPE_FISH],
}
"""The command that types a line into a shell, and a tab."""


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS, indirect=True)
def test_a_shell_completes_commands_options_and_values(
    script: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shell = request.node.callspec.params["script"]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for name in ("script", "_turnout"):
        (tmp_path / name).write_text(script)
    (tmp_path / "within").write_text(ZSH)

    def offered(line: str) -> set[str]:
        (tmp_path / "offered").unlink(missing_ok=True)
        subprocess.run([*TYPE[shell], line], cwd=tmp_path, capture_output=True, check=True, timeout=60)
        return set((tmp_path / "offered").read_text().split())

    assert offered("turnout ro") == {"rollout"}
    assert offered("turnout ") == set(COMMANDS)
    assert offered("turnout run --wo") == {"--workers"}
    assert offered("turnout rollout digits pro") == {"promote"}
    assert offered("turnout init --policy sh") == {"shadow"}
    assert offered("turnout keys n") == {"new"}
    assert offered("turnout import ten") == {"tensorzero"}
    assert shell == "bash" or offered("turnout import tensorzero scr") == {
        "script"
    }  # bash's readline adds files
    assert offered("turnout keys new --sc") == {"--scopes"}
    assert offered("turnout evaluate --metric a --met") == {"--metric"}


@pytest.mark.parametrize("script", SCRIPTS, indirect=True)
def test_the_help_of_an_option_is_written_out(script: str) -> None:
    assert "%(default)" not in script
    assert "%%" not in script


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
