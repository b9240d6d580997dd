"""docs/configuration.md names every option with its true default, and none that there isn't."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.config.document import Document
from gateway.config.load import load
from gateway.config.pending import PENDING
from gateway.config.shape import every_section, yaml_keys
from gateway.config.yaml_text import read

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "configuration.md").read_text()

KINDS = {"BetaPrior": "beta", "NormalPrior": "normal", "GammaPrior": "gamma"}
SECTIONS = {path + "#" + model.__name__: (path, model) for path, model in every_section()}


def heading(path: str, model: type[BaseModel]) -> str:
    kind = KINDS.get(model.__name__, "")
    if path == "routes.NAME.policy":
        kind = str(model.model_fields["type"].default)
    return f"### `{path or 'top'}`" + (f" ({kind})" if kind else "")


def rows(title: str) -> dict[str, str]:
    """Key → default, from the table under ``title``."""
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^##+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/configuration.md has no section {title!r}"
    table = re.findall(r"^\| `([^`]+)` \| (.*?) \| .*\|$", found[1], re.MULTILINE)
    assert len({key for key, _ in table}) == len(table)
    return dict(table)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_is_documented_with_its_default(section: str) -> None:
    path, model = SECTIONS[section]
    documented = rows(heading(path, model))
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    assert list(documented) == list(fields)
    for key, said in documented.items():
        assert true_default(fields[key], said), f"{path}.{key}: the docs say {said}"


def true_default(info: FieldInfo, said: str) -> bool:
    default = info.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return said == "required"
    if isinstance(default, BaseModel):
        return said == "below"
    if default is None:
        return said == "–"
    tree, faults = read(said.strip("`"), {})
    assert tree is not None
    assert not faults
    adapter: TypeAdapter[object] = TypeAdapter(info.rebuild_annotation())
    return bool(adapter.validate_python(tree.data, context={"file": True}) == default)


def test_nothing_else_is_documented() -> None:
    titles = re.findall(r"^### .*$", TEXT.split("## Reference")[1], re.MULTILINE)
    assert len(titles) == len(set(titles))
    assert set(titles) == {heading(path, model) for path, model in SECTIONS.values()}


def test_what_is_not_yet_in_force_is_said() -> None:
    listed = re.findall(r"^- `(.+)`$", TEXT.split("not yet in force")[1], re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == PENDING
    known = {f"{path}.{key}".lstrip(".") for path, model in SECTIONS.values() for key in yaml_keys(model)}
    assert known >= PENDING


def test_the_example_in_the_docs_is_valid() -> None:
    (first, *_) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert isinstance(load(first, source="docs", env={}), Document)


def test_every_scope_is_documented() -> None:
    from typing import get_args

    from gateway.config.service import Scope

    auth = (DOCS / "auth.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", auth, re.MULTILINE) == list(get_args(Scope))
