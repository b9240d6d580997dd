"""``turnout completion SHELL``: a script that completes commands, options and their values."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from gateway.commands.output import say


@dataclass(frozen=True)
class Option:
    names: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    takes_value: bool
    repeatable: bool


@dataclass(frozen=True)
class Command:
    name: str
    summary: str
    options: tuple[Option, ...]
    words: tuple[str, ...]
    """Values of its arguments that are known, for example the actions of `rollout`."""
    files: bool
    """Whether files follow the known value."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.epilog = (
        "Write the script into a file, so that shells need not wait for it: "
        "bash: ~/.local/share/bash-completion/completions/turnout; zsh: _turnout in a folder of $fpath; "
        "fish: ~/.config/fish/completions/turnout.fish."
    )


def main(arguments: argparse.Namespace) -> int:
    say(SCRIPTS[arguments.shell](tuple(_commands())).rstrip())
    return 0


def _commands() -> Iterator[Command]:
    from gateway.cli import COMMANDS  # late: it is the module that imports this one

    for name, (module, summary) in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=name)
        with contextlib.suppress(
            ModuleNotFoundError
        ):  # without its extra a command completes without options
            import_module(module).add_arguments(parser)
        yield _command(name, summary, parser)


def _command(name: str, summary: str, parser: argparse.ArgumentParser) -> Command:
    options: dict[tuple[str, ...], Option] = {}
    words: list[str] = []
    files = False
    for action in parser._actions:
        choices, names = tuple(map(str, action.choices or ())), tuple(action.option_strings)
        if names:
            text = (action.help or "") % {**vars(action), "prog": parser.prog}
            repeatable = isinstance(action, argparse._AppendAction)
            options[names] = Option(names, text, choices, action.nargs != 0, repeatable)
        else:
            words += choices
            files |= action.type is Path
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                options |= {option.names: option for option in _command(name, "", part).options}
    return Command(name, summary, tuple(options.values()), tuple(words), files)


def _bash(commands: tuple[Command, ...]) -> str:
    cases = []
    for command in commands:
        flags = " ".join(name for option in command.options for name in option.names)
        values = "".join(
            f" {'|'.join(option.names)}) words='{' '.join(option.choices)}' ;;"
            for option in command.options
            if option.choices
        )
        valued = f' case "$previous" in{values} esac;' if values else ""
        cases.append(f"    {command.name}) flags='{flags}'; words='{' '.join(command.words)}';{valued} ;;")
    return f"""_turnout() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} flags='' words=''
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=($(compgen -W '{" ".join(command.name for command in commands)}' -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{chr(10).join(cases)}
  esac
  if [[ $current == -* ]]; then words=$flags; fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _turnout turnout
"""


def _zsh(commands: tuple[Command, ...]) -> str:
    described = "\n".join(f"    {_quoted(f'{c.name}:{c.summary}')}" for c in commands)
    cases = "\n".join(f"    {c.name}) _arguments {' '.join(_zsh_specs(c))} ;;" for c in commands)
    return f"""#compdef turnout
_turnout() {{
  local -a commands=(
{described}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
{cases}
  esac
}}
compdef _turnout turnout
if [[ $funcstack[1] == _turnout ]]; then _turnout; fi
"""


def _zsh_specs(command: Command) -> Iterator[str]:
    for option in command.options:
        for name in option.names:
            text = option.help.replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")
            value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
            star = "*" if option.repeatable else ""
            yield _quoted(f"{star}{name}[{text}]{value if option.takes_value else ''}")
    if command.words:
        yield _quoted(f"{'1' if command.files else '*'}:argument:({' '.join(command.words)})")
    if command.files or not command.words:
        yield _quoted("*:argument:_files")


def _fish(commands: tuple[Command, ...]) -> str:
    lines = [
        f"complete -c turnout -f -n __fish_use_subcommand -a {c.name} -d {_fish_quoted(c.summary)}"
        for c in commands
    ]
    for command in commands:
        prefix = f"complete -c turnout -n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            lines.append(f"{prefix} -a '{' '.join(command.words)}'")
        for option in command.options:
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            choices = f" -x -a '{' '.join(option.choices)}'" if option.choices else ""
            value = choices or (" -r" if option.takes_value else "")
            lines.append(f"{prefix} {names}{value} -d {_fish_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: Final = {"bash": _bash, "zsh": _zsh, "fish": _fish}
