"""``turnout engine``: the configuration with which a node of an engine starts, and the agent that keeps its files."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from urllib.parse import urlsplit

from gateway.commands.documents import add_config, control_url
from gateway.commands.output import MISUSED, complain, print_json, say
from gateway.config.engine import EngineConfig, admits
from gateway.config.faults import unknown
from gateway.config.load import ConfigError, load_file
from gateway.config.service import LogConfig
from gateway.config.units import split_address
from gateway.engines.envoy.agent import Served, run
from gateway.engines.envoy.bootstrap import Node, bootstrap
from gateway.engines.haproxy import agent as haproxy_agent
from gateway.engines.haproxy import bootstrap as haproxy
from gateway.telemetry.log import configure

Address = tuple[str, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="engine_command", required=True, metavar="bootstrap|agent")
    made = commands.add_parser("bootstrap", help="print a node's first configuration")
    made.add_argument("engine", metavar="ENGINE", help="name of the engine in the configuration")
    add_config(made)
    made.add_argument("--node", required=True, metavar="NAME", help="name of this node, unique in the engine")
    made.add_argument(
        "--listen",
        required=True,
        type=_address,
        metavar="ADDR",
        help="address that clients use, for example 0.0.0.0:8000",
    )
    made.add_argument("--admin", type=_address, metavar="ADDR", help="address of the node's admin interface")
    made.add_argument(
        "--url",
        type=_url,
        metavar="URL",
        help="the gateway's control API as the node reaches it (default: from the configuration)",
    )
    made.add_argument(
        "--ca",
        default="/etc/ssl/certs/ca-certificates.crt",
        metavar="FILE",
        help="file on the node with the CAs to trust for an https --url (default: %(default)s)",
    )
    made.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="read what the node needs from files that 'turnout engine agent' keeps in DIR; required for HAProxy, for "
        "Envoy it needs --admin",
    )
    agent = commands.add_parser("agent", help="keep a node's files, so that it starts without a gateway")
    agent.add_argument(
        "bootstrap", type=Path, metavar="BOOTSTRAP", help="the node's configuration, made with --files"
    )


def _address(text: str) -> Address:
    try:
        return split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a base URL; write one such as http://turnout:8080")
    return text.rstrip("/")


def main(args: argparse.Namespace) -> int:
    """0, or 1 if the configuration has faults or has no such engine."""
    if args.engine_command == "agent":
        return _agent(args.bootstrap)
    try:
        document = load_file(args.config)
    except ConfigError as error:
        return complain(error)
    engine = document.engines.get(args.engine)
    if engine is None:
        message, hint = unknown("engine", args.engine, tuple(document.engines))
        return complain(f"{message}{f' ({hint})' if hint else ''}")
    if not isinstance(engine, EngineConfig):
        return complain(
            f"{args.engine} is of the type {engine.type}, which has no nodes to start: the leader sets the weights"
        )
    if not admits(engine.nodes, args.node):
        names = ", ".join(engine.nodes)
        return complain(f"{args.engine} has no node {args.node!r}; name it under 'nodes', which has: {names}")
    url = args.url or control_url(document)
    if url is None:
        return complain("the gateway listens on every address; write --url http://HOST:PORT")
    files = None if args.files is None else str(args.files.absolute())
    if engine.type == "haproxy":
        return _haproxy(args, engine, url, files)
    if files is not None and args.admin is None:
        return complain("an agent asks the node what it has taken; write --admin 127.0.0.1:PORT", MISUSED)
    node = Node(args.engine, args.node, engine.token, url, args.listen, args.admin, args.ca, files)
    print_json(bootstrap(node))
    return 0


def _haproxy(args: argparse.Namespace, engine: EngineConfig, url: str, files: str | None) -> int:
    if files is None:
        return complain("HAProxy needs an agent; write --files DIR, the folder that they share", MISUSED)
    if args.admin is not None:
        return complain("HAProxy's agent uses a socket in its folder; leave --admin out", MISUSED)
    try:
        node = haproxy.Node(args.engine, args.node, engine.token, url, files, args.ca)
    except ValueError as error:
        return complain(error, MISUSED)
    host, port = args.listen
    say(haproxy.bootstrap(node, f"[{host}]:{port}" if ":" in host else f"{host}:{port}").rstrip())
    return 0


def _agent(path: Path) -> int:
    try:
        text = path.read_text()
        served = Served.read(json.loads(text)) if text.startswith("{") else haproxy.Node.read(text)
        Path(served.files).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return complain(error)
    except ValueError as error:
        return complain(f"{path}: {error}")
    configure(LogConfig())
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(run(served) if isinstance(served, Served) else haproxy_agent.run(served))
    return 0
