"""The shape of the product: the order of packages, no cycles, small files and classes.

Every import counts, also one inside a function or for annotations only.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from gateway import build

ROOT = Path(__file__).parent.parent
ROOMS = ("gateway", "policies", "backends", "dashboards")
MAX_FILE_LINES = 400
MAX_TEST_FILE_LINES = 500
MAX_PUBLIC_METHODS = 20
MAX_ATTRIBUTES = 25

# Package → what it may import of the packages above it, so that no cycle of packages is possible.
# "policies" stands for all of its packages. The composition root and what starts it may import everything above.
ORDER: Mapping[str, str] = {
    "policies.types": "",
    "policies.ejection": "",
    "policies.comparison": "",
    "policies.bayes": "policies.types",
    "policies.sequential": "policies.types policies.bayes",
    "policies.allocation": "policies.types policies.bayes policies.sequential",
    "policies.contextual": "policies.types policies.allocation",
    "policies.allocate": "policies.allocation policies.contextual",
    "policies.rollout": "policies.types policies.sequential",
    "policies.offpolicy": "policies.contextual",
    "policies.simulation": (
        "policies.types policies.bayes policies.sequential policies.allocation policies.contextual "
        "policies.allocate policies.rollout"
    ),
    "gateway.json_text": "",
    "gateway.errors": "gateway.json_text",
    "gateway.internal_errors": "",
    "gateway.clock": "",
    "gateway.build": "",
    "gateway.runtime": "gateway.errors",
    "gateway.http": "gateway.errors",
    "gateway.http2": "",
    "gateway.config": "gateway.runtime gateway.http policies",
    "gateway.auth": "gateway.errors gateway.http gateway.config",
    "gateway.record": "gateway.errors policies",
    "gateway.transport": "gateway.internal_errors gateway.http gateway.http2 policies",
    "gateway.telemetry": "gateway.clock gateway.build gateway.config gateway.record gateway.transport",
    "gateway.dataplane": (
        "gateway.errors gateway.internal_errors gateway.clock gateway.runtime gateway.http gateway.http2 "
        "gateway.auth gateway.record gateway.transport gateway.telemetry policies"
    ),
    "gateway.state": "gateway.clock gateway.runtime gateway.record policies",
    "gateway.compile": (
        "gateway.errors gateway.clock gateway.http gateway.config gateway.auth gateway.record gateway.transport "
        "gateway.telemetry gateway.dataplane gateway.state policies"
    ),
    "gateway.archive": "gateway.errors gateway.record gateway.state",
    "gateway.ingest": (
        "gateway.errors gateway.clock gateway.runtime gateway.config gateway.record gateway.state gateway.archive "
        "policies"
    ),
    "gateway.engines": (
        "gateway.json_text gateway.errors gateway.clock gateway.config gateway.record gateway.state gateway.compile "
        "policies"
    ),
    "gateway.loops": (
        "gateway.json_text gateway.errors gateway.internal_errors gateway.clock gateway.config "
        "gateway.auth gateway.record gateway.transport gateway.telemetry gateway.dataplane gateway.state "
        "gateway.compile gateway.ingest gateway.engines gateway.archive policies"
    ),
    "gateway.control": (
        "gateway.json_text gateway.errors gateway.internal_errors gateway.clock gateway.build gateway.runtime "
        "gateway.http gateway.config gateway.auth gateway.record gateway.transport gateway.telemetry "
        "gateway.dataplane gateway.state gateway.compile gateway.ingest gateway.engines policies dashboards"
    ),
}
"""`loops` and `control` know nothing of each other: the composition root connects them."""
COMPOSITION = {"gateway.in_force", "gateway.running", "gateway.schedule", "gateway.server"}
ROOTS = COMPOSITION | {"gateway.serving", "gateway.supervisor", "gateway.commands", "gateway.cli"}
MAY_IMPORT_SERVER = COMPOSITION | {"gateway.serving", "gateway.supervisor"}
# Only commands may reach the model server (to start it), and only by name at the moment they run.
MAY_START_BACKENDS = {"gateway.commands.demo"}
THIRD_PARTY: Mapping[str, set[str]] = {
    "policies": {"numpy", "scipy"},
    "dashboards": set(),
}
IMPURE = {
    "asyncio", "datetime", "io", "os", "pathlib", "random", "secrets", "socket", "subprocess", "tempfile",
    "threading", "time", "urllib",
}  # fmt: skip


@cache
def modules() -> Mapping[str, Path]:
    """Dotted name → file, of the whole product. The client library is a product of its own."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(paths)
        if not path.is_relative_to(ROOT / "gateway" / "client")
    }


@cache
def imports(name: str) -> frozenset[str]:
    """All that a module imports: for ``from a import b`` the module ``a.b`` if there is one, else ``a``."""
    return frozenset(_imports(modules()[name]))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            assert node.module is not None
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules() else node.module for name in full)


def package(module: str) -> str:
    """The row of `ORDER` that a module belongs to; a room without rows is one package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in ("gateway", "policies") else parts[0]


def cycles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of two and more nodes that can reach each other (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            place = stack.index(node)
            if len(stack) - place > 1:
                found.append(set(stack[place:]))
            del stack[place:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


# The order -------------------------------------------------------------------------------------------
def test_the_table_lists_every_package_in_order() -> None:
    above: set[str] = {"policies", "dashboards"}
    for row, allowed in ORDER.items():
        assert set(allowed.split()) <= above, f"{row} names a package below it"
        above.add(row)
    packages = {
        package(name)
        for name in modules()
        if name.count(".") and name.split(".")[0] in ("gateway", "policies")
    }
    assert packages == ORDER.keys() | ROOTS


def may_import(name: str, target: str) -> bool:
    own, top = package(name), target.split(".")[0]
    if target not in modules():
        third = THIRD_PARTY.get(name.split(".")[0])
        return third is None or top in third | sys.stdlib_module_names
    if top == "backends" and not name.startswith("backends"):
        return name in MAY_START_BACKENDS  # HTTP is the contract
    if own in ROOTS:
        return package(target) not in COMPOSITION or name in MAY_IMPORT_SERVER
    return package(target) == own or bool({package(target), top} & set(ORDER.get(own, "").split()))


def test_a_module_imports_only_what_its_package_may() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        for target in imports(name)
        if not may_import(name, target)
    ]
    assert not wrong


def test_files_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for name in modules():
        graph[name] = {target for target in imports(name) if target in modules()}
    assert not cycles(graph)


def test_a_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set()}) == [{"a", "b", "c"}]


def test_nothing_is_imported_for_type_checking_only() -> None:
    """Such an import hides a cycle from the interpreter, and from mypyc the class that it could call directly."""
    assert not [name for name, path in modules().items() if "TYPE_CHECKING" in path.read_text()]


def test_policies_are_pure() -> None:
    """Time, chance and io arrive as arguments."""
    wrong = [
        f"{name} imports {target}"
        for name in modules()
        for target in imports(name)
        if name.startswith("policies") and target.split(".")[0] in IMPURE
    ]
    assert not wrong


def test_the_rules_can_fail() -> None:
    """The walk really sees imports: the composition root imports packages that no other may."""
    assert {"gateway.loops.allocation", "gateway.dataplane.worker", "gateway.control.app"} <= imports(
        "gateway.server"
    )


# Sizes -----------------------------------------------------------------------------------------------
def test_no_file_is_long() -> None:
    paths = [*modules().values(), *(ROOT / "benchmarks").rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}
    tests = {str(path): len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert not {name: lines for name, lines in tests.items() if lines > MAX_TEST_FILE_LINES}


def test_no_class_of_the_hot_path_is_big() -> None:
    """Attributes count with those of the base classes, as an instance has them all; methods where they are written."""
    own = {
        f"{path.removesuffix('.py').replace('/', '.')}.{node.name}": node
        for path, source in build.sources().items()
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    methods = {name: public_methods(node) for name, node in own.items()}
    assert not {name: count for name, count in methods.items() if count > MAX_PUBLIC_METHODS}
    sizes = {}
    for name in own:
        module, _, short = name.rpartition(".")
        bases = getattr(importlib.import_module(module), short).__mro__
        found = (own.get(f"{base.__module__}.{base.__qualname__}") for base in bases)
        sizes[name] = len({attribute for node in found if node is not None for attribute in attributes(node)})
    assert not {name: count for name, count in sizes.items() if count > MAX_ATTRIBUTES}


def public_methods(node: ast.ClassDef) -> int:
    functions = (item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
    return sum(not function.name.startswith("_") for function in functions)


def attributes(node: ast.ClassDef) -> Iterator[str]:
    """Slots, fields, defaults of the class, and what its methods set."""
    for item in node.body:
        if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "__slots__":
            yield from ast.literal_eval(item.value)
        elif isinstance(item, ast.Assign | ast.AnnAssign):
            target = item.targets[0] if isinstance(item, ast.Assign) else item.target
            yield ast.unparse(target)
        else:
            yield from (
                one.attr
                for one in ast.walk(item)
                if isinstance(one, ast.Attribute)
                and isinstance(one.ctx, ast.Store)
                and ast.unparse(one.value) == "self"
            )


# What is shipped -------------------------------------------------------------------------------------
@pytest.mark.slow
def test_no_machine_is_named() -> None:
    """No absolute path of somebody's machine is in what we ship."""
    needles = ("/" + "work/", "/" + "root/", "/" + "home/")
    suffixes = {".py", ".md", ".yaml", ".toml", ".sh", ".js", ".html", ".css"}
    shipped = [top for top in ROOT.iterdir() if not top.name.startswith(".") and top.name != "node_modules"]
    for path in chain(shipped, *(top.rglob("*") for top in shipped)):
        parts = path.relative_to(ROOT).parts
        if any(part.startswith(".") or part in {"node_modules", "models"} for part in parts):
            continue
        if path.suffix in suffixes and path.is_file():
            text = path.read_text()
            assert not any(needle in text for needle in needles), path
