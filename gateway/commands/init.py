"""``turnout init``: a commented configuration and keys, after probing the given servers."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.commands.detect import Server, detect
from gateway.commands.keys import yaml_line
from gateway.commands.output import add_json, complain, output_file, print_json, say
from gateway.config.apikey import key_hash, new_secret
from gateway.config.load import examine

POLICIES: Final = ("single", "shadow", "canary", "bandit")
SCHEMA: Final = "turnout.schema.json"
"""The file that the first line of the configuration names, next to it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--current", metavar="URL", help="server of the version in production")
    parser.add_argument("--candidate", metavar="URL", help="server of the new version")
    parser.add_argument("--path", help="path that clients call (default: found by probing)")
    parser.add_argument(
        "--policy", choices=POLICIES, help="policy (default: canary with a candidate, otherwise single)"
    )
    parser.add_argument("--route", metavar="NAME", help="name of the route (default: taken from the path)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("turnout.yaml"),
        metavar="FILE",
        help="output file (default: turnout.yaml)",
    )
    parser.add_argument("--no-auth", action="store_true", help="write no keys: only this machine may steer")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    add_json(parser, "print a summary as one JSON document")


def main(arguments: argparse.Namespace) -> int:
    try:
        if arguments.out.suffix in ("", ".keys"):
            raise ValueError("--out is a file such as turnout.yaml; the keys go to one that ends with .keys")
        keys = arguments.out.with_suffix(".keys")
        refuse_existing([arguments.out, keys], force=arguments.force)
        _ask(arguments)
        urls = [arguments.current, *([arguments.candidate] if arguments.candidate else [])]
        # The route has one path: different ones of the servers are prefixes.
        endpoint = arguments.path is None and len({urlsplit(url).path.rstrip("/") for url in urls}) == 1
        current, *rest = [detect(url, endpoint=endpoint) for url in urls]
        candidate = rest[0] if rest else None
        if arguments.path is None:
            arguments.path = _chosen_path(current)
        secrets = {} if arguments.no_auth else {"app": new_secret(), "ops": new_secret()}
        text = configuration(arguments, current, candidate, {k: key_hash(v) for k, v in secrets.items()})
        faults = examine(text, env=os.environ).faults
        if faults:
            raise ValueError(f"the result is not a valid configuration: {faults[0].message}")
        files = {arguments.out: text, arguments.out.with_name(SCHEMA): _schema()}
        if secrets:
            files[keys] = f"TURNOUT_APP_KEY={secrets['app']}\nTURNOUT_KEY={secrets['ops']}\n"
        with ExitStack() as targets:  # all or none: hashes without their secrets would be of no use
            for path, content in files.items():
                target = targets.enter_context(output_file(path, private=path == keys))
                target.write(content.encode())
                target.flush()
    except EOFError:  # Ctrl-D at a question
        print()  # noqa: T201
        return complain("the input ended at a question; write options, such as --current http://HOST:PORT")
    except (ValueError, OSError) as error:
        return complain(error)
    _report(arguments, current, candidate, keys if secrets else None)
    return 0


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Raise ValueError if one of the files to write exists, unless ``force``."""
    for path in paths:
        if path.exists() and not force:
            raise ValueError(f"{path} exists; write another --out, or --force to replace it")


def _ask(arguments: argparse.Namespace) -> None:
    """Fill in what no option says, from a terminal. Raises ValueError where there is no terminal."""
    if arguments.current is None:
        arguments.current = sys.stdin.isatty() and input("URL of the server in production: ").strip()
        if not arguments.current:
            raise ValueError("name the server in production: --current http://HOST:PORT")
        if arguments.candidate is None:
            new = input("URL of the new version's server (empty: none yet): ").strip()
            arguments.candidate = new or None
    for option in ("current", "candidate"):
        url = getattr(arguments, option)
        if url and "://" not in url:
            setattr(arguments, option, f"http://{url}")
    if arguments.policy is None:
        arguments.policy = "canary" if arguments.candidate else "single"
    if arguments.policy != "single" and not arguments.candidate:
        raise ValueError(f"a {arguments.policy} needs --candidate, the server of the new version")


def _chosen_path(server: Server) -> str:
    """The path that probing found; a terminal is asked where it found several, or none."""
    if not sys.stdin.isatty() or (server.path != "/" and len(server.paths) < 2):
        return server.path
    listed = "".join(f"  {path}\n" for path in server.paths)
    found = f"Paths found:\n{listed}" if listed else ""
    return input(f"{found}Path that clients call [{server.path}]: ").strip() or server.path


def write_schema(path: Path) -> None:
    """For editors; the one of another release is replaced."""
    path.write_text(_schema(), encoding="utf-8")


def _schema() -> str:
    from gateway.config.json_schema import json_schema

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


# The file -----------------------------------------------------------------------------------------------
def configuration(
    arguments: argparse.Namespace, current: Server, candidate: Server | None, hashes: dict[str, str]
) -> str:
    """The text of the configuration. ``hashes``: key id → hash, for the keys `app` and `ops`."""
    listen = address(current, candidate)
    openai = current.comparison == "openai"
    name = arguments.route or _route_name(arguments.path, "chat" if openai else "model")
    match = f"path: {json.dumps(arguments.path)}" + (", protocol: openai" if openai else "")
    parts = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "# Written by 'turnout init'. Every option: docs/configuration.md; 'turnout check' validates an edit,",
        "# and a running gateway takes edits of this file by itself.",
        "",
        f"listen: {listen}            # 0.0.0.0 instead of 127.0.0.1 serves other machines; dashboard: /-/dashboard/",
        "store: sqlite:///turnout.db       # or redis://HOST:6379/0, to share it among replicas",
        "",
        *_auth(hashes, name),
        "metrics:                          # what clients report with POST /-/feedback",
        "  correct: {type: boolean, goal: maximize, window: 1h}    # or fraction, real, count",
        *(_OPENAI_METRICS if openai else []),
        "",
        "backends:",
        *_backend("current", current),
        *(_backend("candidate", candidate) if candidate else []),
        "",
        "routes:",
        f"  {name}:",
        f"    match: {{{match}}}".ljust(33) + " # and everything below it",
        *(_OPENAI_USAGE if openai else []),
        "    # unit: {header: x-user-id}   # keep each user on one variant",
        "    variants:                     # a new build is a new variant: its figures start from zero",
        f"      v1: {{backend: current{_model(current, candidate)}}}",
        *([f"      v2: {{backend: candidate{_model(candidate, current)}}}"] if candidate else []),
        *_policy(arguments.policy),
        *(["    fallback: [v1]                # v1 responds where v2 fails or is slow"] if candidate else []),
        f"    comparison: {{type: {current.comparison}}}".ljust(33)
        + " # how a shadow's response is compared",
        "    timeouts: {connect: 1s, first_byte: 60s, idle: 60s, total: null}"
        if openai
        else "    timeouts: {connect: 1s, first_byte: 30s, total: 5m}",
    ]
    return "\n".join(parts) + "\n"


_OPENAI_METRICS: Final = (
    "  output_tokens: {type: count, usage: output_tokens}      # read from responses: docs/llm.md",
    "  first_token_ms: {type: real, minimum: 0, cap: 5000, usage: first_token_ms}",
)
_OPENAI_USAGE: Final = (
    "    usage: true                   # 'request' also asks for token counts in streams",
)


def _model(server: Server, other: Server | None) -> str:
    """The name of the server's only model where the other server's has another: vLLM responds 404 to a foreign one."""
    if other is None or server.models == other.models or {len(server.models), len(other.models)} != {1}:
        return ""
    return f", rewrite: {{model: {json.dumps(server.models[0])}}}"


def _route_name(path: str, default: str) -> str:
    """The last segment of ``path`` that names something; ``default`` if that is a version, as in ``/v1``."""
    segment = re.sub(r"[^A-Za-z0-9._-]+", "-", path.rstrip("/").split("/")[-1])
    return default if re.fullmatch(r"(v\d+)?", segment) else segment


def address(*servers: Server | None) -> str:
    """Where the gateway listens: at port 8080, or the next that none of ``servers`` uses."""
    taken = {urlsplit(server.url).port for server in servers if server is not None}
    return f"127.0.0.1:{next(port for port in itertools.count(8080) if port not in taken)}"


def _auth(hashes: dict[str, str], route: str) -> list[str]:
    if not hashes:
        return [
            "# Without 'auth' every client may infer and report, and programs on this machine may steer.",
            "",
        ]
    app: dict[str, object] = {
        "id": "app",
        "hash": hashes["app"],
        "scopes": ["infer", "feedback"],
        "routes": [route],
    }
    ops: dict[str, object] = {"id": "ops", "hash": hashes["ops"], "scopes": ["admin"]}
    return ["auth:", "  keys:", f"    {yaml_line(app)}", f"    {yaml_line(ops)}", ""]


def _backend(name: str, server: Server) -> list[str]:
    lines = [f"  {name}:".ljust(33) + f" # {server.kind}", f"    url: {json.dumps(server.url)}"]
    if server.health:
        lines.append(f"    health: {{path: {json.dumps(server.health)}, every: 5s}}")
    elif not (server.needs or "").startswith("health"):
        lines.append("    # health: {path: /healthz, every: 5s}    # no health endpoint was found")
    if server.needs:
        lines.append(f"    # {server.needs}".ljust(33) + " # fill in and uncomment")
    return lines


def _policy(kind: str) -> list[str]:
    return {
        "single": ["    policy: {type: single, variant: v1}"],
        "shadow": ["    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}"],
        "bandit": [
            "    policy: {type: bandit, metric: correct, floor: 1%}     # shares follow P(best)",
        ],
        "canary": [
            "    policy:",
            "      type: canary",
            "      baseline: v1",
            "      candidate: v2",
            "      stages: [{weight: 1%, for: 10m}, {weight: 10%, for: 30m}, {weight: 50%, for: 1h}]",
            "      guardrails:                 # promoted when all hold, rolled back when one is broken",
            "        - {metric: error_rate, max_increase: 1%}",
            "        - {metric: client_error_rate, max_increase: 1%}     # 4xx, such as 404 and 422",
            "        - {metric: latency_p95, max_ratio: 1.5}",
            "        # - {metric: correct, max_decrease: 2%}",
        ],
    }[kind]


def _report(
    arguments: argparse.Namespace, current: Server, candidate: Server | None, keys: Path | None
) -> None:
    servers = [server for server in (current, candidate) if server is not None]
    if arguments.json:
        found = [
            {"url": s.url, "kind": s.kind, "health": s.health, "reachable": s.reachable} for s in servers
        ]
        print_json(
            {
                "config": str(arguments.out),
                "keys": str(keys) if keys else None,
                "path": arguments.path,
                "servers": found,
            }
        )
        return
    for server in servers:
        say(f"{server.url}: {server.kind}")
    if not all(server.reachable for server in servers):
        say(
            "start what is unreachable and repeat this with --force; path and health check are guesses until then"
        )
    secrets = f", {keys} (secrets, readable by you alone)" if keys else ""
    say(f"wrote {arguments.out}{secrets} and {arguments.out.with_name(SCHEMA)} (for editors)")
    say(f"next:\n  turnout check {arguments.out}\n  turnout run --config {arguments.out}")
    with_keys = sent = ""
    if keys is not None:
        with_keys = f", with these keys:\n  export $(cat {keys})"
        sent = ' -H "authorization: Bearer $TURNOUT_APP_KEY"'
    url = f"{address(*servers)}{arguments.path}"
    if current.comparison == "openai" and arguments.path == current.path:
        url += "/chat/completions"
    say(f"then, in another shell{with_keys or ':'}\n  turnout status\n  curl -i {url}{sent} --json '{{…}}'")
