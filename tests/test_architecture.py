"""Who may import whom: the rooms of the design, enforced."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("gateway", "policies", "backends", "dashboards")
# Room → (what of ours it may import, which third parties). None: any.
ALLOWED: dict[str, tuple[set[str], set[str] | None]] = {
    "policies": ({"policies"}, {"numpy", "scipy"}),
    "gateway": ({"gateway", "policies", "backends", "dashboards"}, None),
    "backends": ({"backends"}, None),
    "dashboards": ({"dashboards"}, None),
}
# Only commands may reach the model server (to start it), and only by name at the moment they run.
MAY_START_BACKENDS = {"gateway/commands/demo.py"}
# The composition root and what starts it.
MAY_IMPORT_SERVER = {"gateway/serving.py", "gateway/supervisor.py"}
IMPURE = {
    "asyncio", "datetime", "io", "os", "pathlib", "random", "secrets", "socket", "subprocess", "tempfile",
    "threading", "time", "urllib",
}  # fmt: skip


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def every_module() -> list[str]:
    return [str(path.relative_to(ROOT)) for room in ROOMS for path in modules(room)]


@pytest.mark.parametrize("name", every_module())
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    room = name.split("/")[0]
    ours, third = ALLOWED[room]
    for imported in imports(ROOT / name):
        top = imported.split(".")[0]
        if top in ROOMS:
            assert top in ours, f"{name} imports {imported}"
            if top == "backends" and room != "backends":
                assert name in MAY_START_BACKENDS, f"{name} imports {imported}: HTTP is the contract"
        elif third is not None and top not in sys.stdlib_module_names:
            assert top in third, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in every_module() if name.startswith("policies/")])
def test_policies_are_pure(name: str) -> None:
    touched = {imported.split(".")[0] for imported in imports(ROOT / name)} & IMPURE
    assert not touched, f"{name} imports {touched}: time, chance and io arrive as arguments"


@pytest.mark.parametrize("name", [n for n in every_module() if n not in MAY_IMPORT_SERVER])
def test_nobody_imports_the_composition_root(name: str) -> None:
    if name == "gateway/server.py":
        return
    assert not any(i == "gateway.server" or i.startswith("gateway.server.") for i in imports(ROOT / name))


def test_the_rules_can_fail() -> None:
    """The walk really sees imports: the composition root imports rooms that nobody else may."""
    seen = set(imports(ROOT / "gateway/server.py"))
    assert {"gateway.loops.allocation", "gateway.dataplane.worker", "gateway.control.app"} <= seen


def test_no_machine_is_named() -> None:
    """No absolute path of somebody's machine is in what we ship."""
    needles = ("/" + "work/", "/" + "root/", "/" + "home/")
    for path in ROOT.rglob("*"):
        if (
            path.suffix not in {".py", ".md", ".yaml", ".toml", ".sh", ".js", ".html", ".css"}
            or not path.is_file()
        ):
            continue
        if any(
            part.startswith(".") or part in {"node_modules", "models"}
            for part in path.relative_to(ROOT).parts
        ):
            continue
        text = path.read_text()
        assert not any(needle in text for needle in needles), path
