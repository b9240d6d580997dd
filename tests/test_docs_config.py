"""docs/configuration.md and docs/configuration/ name every option with its true default, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.cli import main
from gateway.config.shape import every_section
from gateway.config.yaml_text import read
from tests.e2e.test_tls import Issuer

DOCS = Path(__file__).parents[1] / "docs"
INDEX = DOCS / "configuration.md"
SUBJECTS = sorted((DOCS / "configuration").glob("*.md"))
TEXT = "\n".join(page.read_text().split("## Reference")[1] for page in (*SUBJECTS, INDEX))
"""The reference of every page."""

KINDS = {
    "BetaPriorConfig": "beta",
    "NormalPriorConfig": "normal",
    "GammaPriorConfig": "gamma",
    "KubernetesConfig": "kubernetes",
}
IN_WORDS = {"routes.NAME.match": "–", "routes.NAME.variants.NAME.backend": "required with `match`"}
"""Options whose absence means something that no value does: what stands in place of a default."""
SECTIONS = {path + "#" + model.__name__: (path, model) for path, model in every_section()}


def heading(path: str, model: type[BaseModel]) -> str:
    kind = KINDS.get(model.__name__, "")
    if path == "routes.NAME.policy":
        kind = str(model.model_fields["type"].default)
    return f"### `{path or 'top'}`" + (f" ({kind})" if kind else "")


def rows(title: str) -> dict[str, str]:
    """Key → default, from the table under ``title``."""
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^##+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"no page of docs/configuration has the section {title!r}"
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
        right = said == IN_WORDS.get(f"{path}.{key}") or true_default(fields[key], said)
        assert right, f"{path}.{key}: the docs say {said}"


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
    titles = re.findall(r"^### .*$", TEXT, re.MULTILINE)
    assert len(titles) == len(set(titles))
    assert set(titles) == {heading(path, model) for path, model in SECTIONS.values()}


@pytest.mark.parametrize("page", [INDEX, *SUBJECTS, DOCS / "llm.md"], ids=lambda page: page.stem)
def test_each_page_starts_with_a_file_that_can_be_served(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text()
    first = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert first is not None
    assert first.start() < text.index("\n## "), "the example comes first"
    (tmp_path / "turnout.yaml").write_text(first[1])
    monkeypatch.chdir(tmp_path)
    Issuer(tmp_path).issue("server")
    for number, name in enumerate(re.findall(r"\$\{(\w+)\}", first[1])):
        monkeypatch.setenv(name, f"sha256:{number:064x}")
    assert main(["check", "turnout.yaml"]) == 0, capsys.readouterr().out
    assert "warning" not in capsys.readouterr().out


def test_every_scope_is_documented() -> None:
    from typing import get_args

    from gateway.config.auth import Scope

    auth = (DOCS / "auth.md").read_text().partition("## Scopes")[2]
    assert re.findall(r"^\| `([a-z-]+)` \|", auth, re.MULTILINE) == list(get_args(Scope))
