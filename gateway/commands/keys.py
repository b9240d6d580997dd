"""``turnout keys new``: makes an API key, shows its secret once, and the YAML line with its hash."""

from __future__ import annotations

import argparse
import json

from pydantic import ValidationError

from gateway.commands.output import MISUSED, add_json, complain, print_json, say
from gateway.config.apikey import key_hash, new_secret
from gateway.config.auth import KeyConfig
from gateway.config.explain import explain, single_errors
from gateway.config.yaml_text import read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="keys_command", required=True, metavar="new")
    new = commands.add_parser("new", help="generate an API key")
    new.add_argument("--id", required=True, help="name of the key in logs and in the record")
    new.add_argument("--scopes", required=True, help="scopes of the key, for example infer,feedback")
    new.add_argument("--routes", help="routes that the key may use, for example digits,faces (default: all)")
    new.add_argument("--rate", help="maximum request rate, for example 200/s (default: no limit)")
    add_json(new)


def main(args: argparse.Namespace) -> int:
    """0, or 2 when an argument is not what the configuration would take."""
    secret = new_secret()
    entry: dict[str, object] = {"id": args.id, "hash": key_hash(secret), "scopes": _listed(args.scopes)}
    if args.routes is not None:
        entry["routes"] = _listed(args.routes)
    if args.rate is not None:
        entry["rate"] = args.rate
    try:
        KeyConfig.model_validate(entry, context={"file": True})
    except ValidationError as error:
        faults = []
        for detail in single_errors(error):
            message, hint = explain(detail)
            faults.append(f"--{detail['loc'][0]}: {message}" + (f" ({hint})" if hint else ""))
        return complain("; ".join(faults), MISUSED)
    line = yaml_line(entry)
    if args.json:
        print_json({"secret": secret, **entry, "yaml": line})
    else:
        say(_as_text(secret, line))
    return 0


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def yaml_line(entry: dict[str, object]) -> str:
    """One entry of ``auth.keys`` as a line of YAML."""
    return "- {" + ", ".join(f"{key}: {_flow(value)}" for key, value in entry.items()) + "}"


def _flow(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    text = str(value)
    tree, _ = read(f"[{text}]", {})
    plain = tree is not None and tree.data == [text] and ":" not in text
    return text if plain else json.dumps(text)


def _as_text(secret: str, line: str) -> str:
    return (
        "The secret, shown only this once; clients send it as 'authorization: Bearer SECRET':\n\n"
        f"  {secret}\n\n"
        "Add this line under 'auth:', 'keys:' in the configuration; it holds only the hash:\n\n"
        f"    {line}"
    )
