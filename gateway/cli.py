"""The command ``turnout``: which words it takes, and which module does what they say.

Modules are imported when their command runs: ``turnout keys`` need not wait for scipy, nor the gateway for torch.
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
from pathlib import Path
from typing import Final, NoReturn, cast

from gateway import build

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("gateway.commands.run", "run the gateway"),
    "check": ("gateway.commands.check", "validate a configuration file"),
    "init": ("gateway.commands.init", "write a configuration and keys after probing your servers"),
    "import": ("gateway.commands.importing", "convert the configuration of another tool"),
    "schema": ("gateway.commands.schema", "print the JSON Schema of the configuration"),
    "demo": ("gateway.commands.demo", "run the bundled model server and the gateway, and replay real data"),
    "backend": ("backends.cli", "run the bundled model server"),
    "keys": ("gateway.commands.keys", "generate API keys"),
    "status": ("gateway.commands.status", "show the state of a running gateway"),
    "rollout": (
        "gateway.commands.rollout",
        "steer a rollout: promote, roll back, pause, resume, restart, or set the share",
    ),
    "report": (
        "gateway.commands.report",
        "write a page about a route for signature: versions, figures and history",
    ),
    "plan": ("gateway.commands.plan", "estimate the number of requests that a canary's guardrails need"),
    "simulate": ("gateway.commands.simulate", "test a policy in synthetic worlds"),
    "evaluate": (
        "gateway.commands.evaluate",
        "estimate from the record what another policy would have earned",
    ),
    "export": ("gateway.commands.export", "export the record as Parquet, JSONL or CSV"),
    "explain": ("gateway.commands.explain", "show which variant a unit gets, with what probability, and why"),
    "engine": ("gateway.commands.engine", "set up the nodes of an engine (Envoy or HAProxy)"),
    "completion": ("gateway.commands.completion", "print a completion script for bash, zsh or fish"),
    "version": (
        "gateway.commands.version",
        "print the version, the form of the hot path and the interpreter",
    ),
}

_SYNONYMS: Final = {
    "serve": "run", "start": "run", "validate": "check",
    **{
        action: f"rollout ROUTE {action}"
        for action in ("promote", "rollback", "pause", "resume", "confirm", "restart", "set")
    },
}  # fmt: skip
"""What other tools call a command."""
EXTRAS: Final = {"demo": "backend", "backend": "backend"}
"""Command → the extra whose packages it may need."""
OURS: Final = ("gateway", "policies", "backends", "dashboards")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the process's exit code."""
    wrong = build.fault()
    if wrong:
        print(f"turnout: {wrong}", file=sys.stderr)  # noqa: T201
        return 1
    _open_output()
    words = [_utf8(word) for word in (sys.argv[1:] if argv is None else argv)]
    if "--json" not in words:
        return _run(words)
    # Imported only here: plain commands need not wait for it.
    from gateway.commands.output import ERRORS_AS_JSON

    before = ERRORS_AS_JSON.set(True)
    try:
        return _run(words)
    finally:
        ERRORS_AS_JSON.reset(before)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are reported as those of the commands."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(_complain(message, 2))


def _run(words: list[str]) -> int:
    parser = _Parser(prog="turnout", description="The experimentation and rollout gateway for model servers.")
    parser.add_argument(
        "--version", action="version", version=build.described() if "--version" in words else ""
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    if not words or words[0] == "help":
        words = [*words[1:], "--help"]
    wanted = next((word for word in words if not word.startswith("-")), None)
    if wanted is not None and wanted not in COMMANDS:
        meant = _SYNONYMS.get(wanted)
        near = [meant] if meant else difflib.get_close_matches(wanted, COMMANDS, n=1)
        hint = f"; did you mean 'turnout {near[0]}'?" if near else "; 'turnout --help' lists them"
        return _complain(f"there is no command '{wanted}'{hint}", 2)
    run: Callable[[argparse.Namespace], int] | None = None
    try:
        for name, (module, summary) in COMMANDS.items():
            sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
            if name == wanted:
                # Models may gain from more threads; and what the demo sets, its model server has too.
                if name not in ("backend", "demo"):
                    # For matrices as small as ours, several threads of numpy's library mostly wait for each other:
                    # three times the CPU, on the cores that requests need.
                    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
                found = import_module(module)
                found.add_arguments(sub)
                run = cast("Callable[[argparse.Namespace], int]", found.main)
        arguments, unknown = parser.parse_known_args(words)
        if unknown:
            sub = commands.choices[arguments.command]  # its own usage helps, not that of all commands
            sub.error(_unrecognized(unknown, arguments.command, sub))
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
        return _complain(error, 1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(wanted or "")
        if extra is None or (error.name or "").partition(".")[0] in OURS:
            raise
        needs = f"'turnout {wanted}' needs {error.name}, which is in the extra '{extra}'"
        return _complain(f"{needs}; install it with: pip install 'turnout[{extra}]'", 1)


def _complain(error: object, code: int) -> int:
    from gateway.commands.output import complain

    return complain(error, code)


def _open_output() -> None:
    if sys.stdout is None:  # closed by `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # as standard error; not every locale has every letter


def _unrecognized(unknown: list[str], command: str, parser: argparse.ArgumentParser) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(unknown[0], options, n=1)
    if "--config" in options and not unknown[0].startswith("-"):
        file = "--route" not in options or Path(unknown[0]).suffix or os.path.exists(unknown[0])
        near = [f"--{'config' if file else 'route'} {unknown[0]}"]
    elif unknown[0] == "-c" and "--config" in options:
        near = ["--config"]
    elif unknown[0] in ("--config", "-c"):
        near = ["--url URL" if "--url" in options else f"turnout {command} FILE"]
    if command == "run" and unknown[0].partition("=")[0] in ("--host", "--port", "--listen", "-p"):
        return f"there is no {unknown[0]}: write the address as 'listen: HOST:PORT' into the configuration"
    return f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean '{near[0]}'?" if near else "")


def _utf8(word: str) -> str:
    """``word`` as UTF-8, which a terminal sends in most locales that say otherwise; as it is if it is not UTF-8."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word


if __name__ == "__main__":
    sys.exit(main())
