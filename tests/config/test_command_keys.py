"""``turnout keys new``: the line that it prints is one the configuration takes."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from gateway.commands import keys
from gateway.config.apikey import key_hash
from gateway.config.auth import AuthConfig
from gateway.config.load import load


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    keys.add_arguments(parser)
    return keys.main(parser.parse_args(["new", *arguments]))


def auth_of(line: str) -> AuthConfig:
    routes = (
        "routes:\n  digits: {match: {}, variants: {v: {backend: b}}, policy: {type: single, variant: v}}\n"
    )
    text = f'auth:\n  keys:\n    {line}\nbackends: {{b: {{url: "http://x"}}}}\n{routes}'
    auth = load(text, source="x", env={}).auth
    assert auth is not None
    return auth


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--id", "app", "--scopes", "infer, feedback", "--routes", "digits", "--rate", "200/s") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    secret = next(line for line in lines if line.startswith("tk_"))
    line = next(line for line in lines if line.startswith("- {"))
    assert re.fullmatch(r"tk_[0-9A-Za-z]{49}", secret)
    assert secret not in line
    (key,) = auth_of(line).keys
    assert (key.id, key.hash, key.scopes) == ("app", key_hash(secret), ("infer", "feedback"))
    assert (key.routes, key.rate) == (("digits",), 200.0)


@pytest.mark.parametrize("name", ["1", "1.10", "true", "null", "no", "0x1F", "1e3", "a-b_c.d"])
def test_names_survive_yaml(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--id", name, "--scopes", "admin", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"secret", "id", "hash", "scopes", "yaml"}
    (key,) = auth_of(found["yaml"]).keys
    assert (key.id, key.routes, key.rate) == (name, None, None)
    assert key.hash == found["hash"] == key_hash(found["secret"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--id", "a b", "--scopes", "infer"), "--id: 'a b' is not a name"),
        (("--id", "a", "--scopes", "infr"), "--scopes: 'infr' is unknown; expected one of infer, feedback"),
        (("--id", "a", "--scopes", ","), "--scopes: a list is too short"),
        (("--id", "a", "--scopes", "infer", "--rate", "200"), "--rate: '200' is not a rate"),
        (("--id", "a", "--scopes", "infer", "--routes", "a b"), "--routes: 'a b' is not a name"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
