"""The JSON Schema accepts what the gateway accepts, and refuses what a single section shows to be wrong."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.document import Document
from gateway.config.json_schema import json_schema
from gateway.config.load import examine
from gateway.config.shape import every_section, yaml_keys
from gateway.config.yaml_text import read
from tests.config.broken_files import GOOD, TABLE
from tests.config.test_config_properties import VALUES, WHOLE, as_yaml
from tests.support.command import turnout

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.yaml").read_text()
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
OF_ONE_SECTION = re.compile(
    r"there is no key|the key '\w+' is missing|is not supported|is not valid for this key|is unknown; expected"
    r"|is not a duration|is not a size"
    r"|is not a rate|is not a share|is more than the whole; write \d|is not a path|is not an? .*address"
    r"|is not true or false|is not a list|is not text|is not a whole number|is not a number; write one"
    r"|is too large; write at most|a list is too short|is not a method"
)
"""Messages about what is visible inside one value or one section."""


def tree(text: str) -> Any:
    """What the gateway's own reader makes of ``text``."""
    return read(text, {})[0].data  # type: ignore[union-attr]


@pytest.mark.long
def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_it_knows_every_key() -> None:
    for path, model in every_section():
        section = SCHEMA if model is Document else SCHEMA["$defs"][model.__name__]
        assert list(section["properties"]) == yaml_keys(model), path
        assert section["additionalProperties"] is False, path


def test_the_example_and_the_documentation_agree_with_it() -> None:
    texts = [EXAMPLE, GOOD, WHOLE]
    for page in (ROOT / "docs").rglob("*.md"):
        texts += re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    accepted = [text for text in texts if examine(text, env={}).document is not None]
    assert len(accepted) >= 3
    for text in accepted:
        VALIDATOR.validate(tree(text))
        VALIDATOR.validate(tree(text.replace("${", "$${")))  # as an editor reads it


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [(row[0], row[1], row[4]) for row in TABLE if OF_ONE_SECTION.search(row[4])],
    ids=lambda text: text[:40],
)
def test_what_one_section_shows_is_refused(old: str, new: str, message: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(GOOD.replace(old, new, 1))), message


@pytest.mark.parametrize(
    "edit",
    [
        "limits: {body: 64MiB, body_min_rate: 0}",
        "limits: {body: 1048576, body_min_rate: 1KiB/s, header_timeout: 500ms}",
        "shutdown: {grace: 0}",
        "auth: {keys: [{id: k, hash: '${HASH}', scopes: [infer], rate: 200/s}]}",
        "backends: {b: {url: 'http://${HOST}:80', limit: {in_flight: '${N}'}}}",
        "trusted_proxies: [10.0.0.0/8]",
        "listen: '127.0.0.1:${PORT:-8080}'",
        "shutdown: {grace: '${GRACE:-10s}'}",
    ],
)
def test_units_and_variables_are_typed_as_what_they_are(edit: str) -> None:
    VALIDATOR.validate(yaml.safe_load(edit))


@pytest.mark.parametrize(
    "edit",
    [
        "limits: {body: 64 megabytes}",
        "limits: {header_timeout: 10}",
        "auth: {keys: [{id: k, hash: h, scopes: [inferr]}]}",
        "auth: {keys: [{id: k, hash: h, scopes: [infer], rate: 200}]}",
        "limitz: {}",
        "shutdown: {grace: '${GRACE-10s}'}",
        "backends: {b: {url: 'http://h:80', ejection: {panic: 101%}}}",
    ],
)
def test_wrong_units_are_refused(edit: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(edit))


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, child in children for found in places(child, (*path, key)))]


DATA = tree(EXAMPLE), tree(WHOLE)
PLACES = [(data, place) for data in DATA for place in places(data)[1:]]


@settings(max_examples=300)
@given(at=st.sampled_from(PLACES), value=VALUES | st.sampled_from(["5%", "10s", "1MiB", "1/s", "0.5", "7"]))
def test_it_accepts_whatever_the_gateway_accepts(at: tuple[Any, tuple[Any, ...]], value: Any) -> None:
    data, place = copy.deepcopy(at)
    target = data
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    text = as_yaml(data)
    if examine(text, env={}).document is not None:
        VALIDATOR.validate(tree(text))


@pytest.mark.long
def test_the_command_prints_it() -> None:
    assert json.loads(turnout("schema").stdout) == SCHEMA
