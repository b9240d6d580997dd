"""The command ``turnout``: which words it takes, and which module does what they say.

Modules are imported when their command runs: ``turnout check`` need not wait for scipy, nor the gateway for torch.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, cast

from gateway import build

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("gateway.commands.run", "run the gateway"),
    "check": ("gateway.commands.check", "validate a configuration file"),
    "init": ("gateway.commands.init", "write a configuration and keys after probing your servers"),
    "schema": ("gateway.commands.schema", "print the JSON Schema of the configuration"),
    "demo": ("gateway.commands.demo", "run the bundled model server and the gateway, and replay real data"),
    "backend": ("backends.cli", "run the bundled model server"),
    "keys": ("gateway.commands.keys", "generate API keys"),
    "status": ("gateway.commands.status", "show the state of a running gateway"),
    "rollout": (
        "gateway.commands.rollout",
        "promote, roll back, pause, resume, restart or set a rollout manually",
    ),
    "plan": ("gateway.commands.plan", "estimate the number of requests that a canary's guardrails need"),
    "simulate": ("gateway.commands.simulate", "test a policy in synthetic worlds"),
    "evaluate": (
        "gateway.commands.evaluate",
        "estimate from the record what another policy would have earned",
    ),
    "export": ("gateway.commands.export", "export the record as Parquet, JSONL or CSV"),
    "explain": ("gateway.commands.explain", "show which variant a unit gets, with what probability, and why"),
    "engine": ("gateway.commands.engine", "print what a node of an engine starts with"),
    "completion": ("gateway.commands.completion", "print a completion script for bash, zsh or fish"),
    "version": (
        "gateway.commands.version",
        "print the version, the form of the hot path and the interpreter",
    ),
}

EXTRAS: Final = {"demo": "backend", "backend": "backend"}
"""Command → the extra whose packages it may need."""
OURS: Final = ("gateway", "policies", "backends", "dashboards")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the process's exit code."""
    wrong = build.fault()
    if wrong:
        print(f"turnout: {wrong}", file=sys.stderr)  # noqa: T201
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # as standard error; not every locale has every letter
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="turnout", description="The experimentation and rollout gateway for model servers."
    )
    parser.add_argument(
        "--version", action="version", version=build.described() if "--version" in words else ""
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    if words in ([], ["help"]):
        words = ["--help"]
    wanted = next((word for word in words if not word.startswith("-")), None)
    if wanted is not None and wanted not in COMMANDS:
        near = difflib.get_close_matches(wanted, COMMANDS, n=1)
        hint = f"; did you mean 'turnout {near[0]}'?" if near else "; 'turnout --help' lists them"
        print(f"turnout: there is no command '{wanted}'{hint}", file=sys.stderr)  # noqa: T201
        return 2
    run: Callable[[argparse.Namespace], int] | None = None
    try:
        for name, (module, summary) in COMMANDS.items():
            sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
            if name == wanted:
                found = import_module(module)
                found.add_arguments(sub)
                run = cast("Callable[[argparse.Namespace], int]", found.main)
        arguments, unknown = parser.parse_known_args(words)
        if unknown:  # the command's own usage helps, not that of all commands
            sub = commands.choices[arguments.command]
            options = [option for action in sub._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0], options, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            sub.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        assert run is not None
        return run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `turnout schema | head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the interpreter flushes it at its end
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"turnout: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(wanted or "")
        if extra is None or (error.name or "").partition(".")[0] in OURS:
            raise
        needs = f"'turnout {wanted}' needs {error.name}, which is in the extra '{extra}'"
        print(f"turnout: {needs}; install it with: pip install 'turnout[{extra}]'", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
