"""Parsing of YAML into plain data with the position of every key and value.

Scalars are resolved by the core schema of YAML 1.2, so ``no``, ``22:22`` and ``1_000`` stay text. Keys are always
text. Tags that construct objects and duplicate keys are refused; expansion by anchors is bounded. ``${NAME}`` and
``${NAME:-default}`` in values are replaced from the environment, ``${file:PATH}`` by the content of a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from gateway.config.faults import MAX_FAULTS, Fault, KeyPath, render_path
from gateway.runtime.collector import collector_paused

MAX_CHARACTERS: Final = 1024 * 1024
"""Characters of a file."""
MAX_DEPTH: Final = 50
MAX_VALUES: Final = 100_000
"""Values of a document, counting each use of an anchor."""

_PREFIX: Final = "tag:yaml.org,2002:"
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?:(file:(?!-)[^}]+)\}|([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")
FILE_PREFIX: Final = "file:"
MAX_SECRET_BYTES: Final = 65_536


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """libyaml's parser if available, which is ten times as fast."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML reads it from the class


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"{_PREFIX}{kind}", re.compile(rf"^(?:{pattern})$", re.ASCII), list(first))


_resolve("null", r"~|null|Null|NULL|", "~nN")
_Loader.yaml_implicit_resolvers.setdefault("", []).append((f"{_PREFIX}null", re.compile(r"^$")))
_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_resolve("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789")
_resolve("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")


@dataclass(slots=True)
class Tree:
    """Parsed data with positions, each a (line, column) from 1."""

    data: Any
    """Dicts with text keys, lists and scalars."""
    places: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    """Positions of values."""
    key_places: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    """Positions of keys."""
    secrets: dict[KeyPath, str] = field(default_factory=dict)
    """Variables that values came from: such a value must not be shown."""
    variables: dict[str, int] = field(default_factory=dict)
    """Environment variables and ``file:PATH`` that values use, with the line of first use."""

    @property
    def secret_files(self) -> frozenset[str]:
        """Paths of the ``${file:PATH}`` that values use."""
        found = (name for name in self.variables if name.startswith(FILE_PREFIX))
        return frozenset(name.removeprefix(FILE_PREFIX) for name in found)

    def place(self, path: KeyPath, *, key: bool = False) -> tuple[int, int]:
        """Position of the key or value at ``path``, or of the innermost section around it; (0, 0) if unknown."""
        while True:
            if key and path in self.key_places:
                return self.key_places[path]
            if path in self.places:
                return self.places[path]
            if not path:
                return 0, 0
            path, key = path[:-1], True


@collector_paused
def read(
    text: str, env: Mapping[str, str], allowed: Collection[str] | None = None
) -> tuple[Tree | None, list[Fault]]:
    """Parse ``text``; returns the tree (None if it cannot be parsed) and the faults of the text as YAML.

    ``allowed``: the variables and ``file:PATH`` that values may use; None: all.
    """
    if len(text) > MAX_CHARACTERS:
        return None, [
            Fault(0, 0, "", f"the file has more than {MAX_CHARACTERS} characters; write a smaller one")
        ]
    try:
        text.encode()
        # Composing recurses, in C without a guard, and holds up other threads: what it is given is counted first.
        if too_much := _too_much(text):
            return None, [too_much]
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return None, [_syntax_fault(error, text)]
    except UnicodeEncodeError as error:
        return None, [
            Fault(0, 0, "", f"character {error.start + 1} is half a character; save the file as UTF-8")
        ]
    if node is None:
        return None, [Fault(1, 1, "", "the file is empty; write a configuration (see config.example.yaml)")]
    builder = _Builder(env, allowed)
    try:
        builder.tree.data = builder.build(node, ())
    except _UnbuildableError as error:
        builder.faults.append(error.fault)
        return None, builder.faults
    return builder.tree, builder.faults


def as_written(text: str) -> tuple[Any, list[Fault]]:
    """Return the data of ``text`` (None if it cannot be parsed), with variables as they are written, and its faults."""
    tree, faults = read(text.replace("${", "$${"), {})
    return (None if tree is None else tree.data), faults


_TOO_DEEP: Final = f"this is nested more than {MAX_DEPTH} deep; write it flatter"
_TOO_MANY: Final = f"the document has more than {MAX_VALUES} values, with what anchors repeat; write fewer"


def _too_much(text: str) -> Fault | None:
    """The first value that is too deep, or one too many."""
    depth = values = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH:
            return Fault(*_start(event), "", _TOO_DEEP)
        if values > 2 * MAX_VALUES:  # a key and a value each
            return Fault(*_start(event), "", _TOO_MANY)
    return None


_INDENTATION: Final = "compare its indentation, and that of the lines around it, or add a missing ':'"
_SYNTAX_HINTS: Final = {
    "token": "indent with spaces, not tabs, and quote text that begins with @, ` or %",
    "mapping values": _INDENTATION,
    "expected key": _INDENTATION,
    "expected ':'": _INDENTATION,
    "expected '-'": "a list and a mapping are mixed here: begin every entry with '- ', or none",
}
"""What to write, by a part of libyaml's message."""


def _syntax_fault(error: yaml.YAMLError, text: str) -> Fault:
    if isinstance(error, yaml.reader.ReaderError):
        before = text.encode()[: error.position].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return Fault(line, column, "", f"not valid YAML: {error.reason} (U+{error.character:04X}); remove it")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it can't be read"
    if "nesting depth" in problem:  # libyaml's own limit: its scanner runs ahead of the events we count
        problem = _TOO_DEEP
    context = getattr(error, "context", None)
    said = f"{problem}, {context}" if context else str(problem)
    begin = getattr(error, "context_mark", None)
    if context and begin is not None:
        said += f" that starts in line {begin.line + 1}"
    hint = next((hint for part, hint in _SYNTAX_HINTS.items() if part in said), "")
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
    return Fault(line, column, "", f"not valid YAML: {said}", hint)


class _UnbuildableError(Exception):
    """A fault that makes it impossible to build the document."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def _start(node: yaml.Node | yaml.Event) -> tuple[int, int]:
    mark: Any = node.start_mark
    return mark.line + 1, mark.column + 1


class _Builder:
    """Builds data from YAML nodes, depth first in the order of the file."""

    def __init__(self, env: Mapping[str, str], allowed: Collection[str] | None) -> None:
        self.env = env
        self.allowed = allowed
        self.tree = Tree(None)
        self.faults: list[Fault] = []
        self._values = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        if len(self.faults) >= MAX_FAULTS:
            raise _UnbuildableError(self.faults.pop())
        if self._values > MAX_VALUES:
            raise _UnbuildableError(self._fault(node, path, _TOO_MANY))
        if len(path) > MAX_DEPTH:
            raise _UnbuildableError(
                self._fault(node, path[:4], f"this is more than {MAX_DEPTH} deep; write it flatter")
            )
        if id(node) in self._open:
            raise _UnbuildableError(self._fault(node, path, "this anchor contains itself; write it out"))
        self.tree.places.setdefault(path, _start(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            return self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        finally:
            self._open.discard(id(node))

    def _list(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        self._plain_tag(node, path, "seq")
        return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._plain_tag(node, path, "map")
        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(self._fault(key_node, path, "a key is a list or a mapping; write a word"))
            elif key_node.value == "<<" and key_node.style not in ("'", '"'):
                merged.append(value_node)
            else:
                self._entry(result, key_node, value_node, path)
        for value_node in merged:
            self._merge(result, value_node, path)
        return result

    def _entry(self, result: dict[str, Any], key: yaml.ScalarNode, value: yaml.Node, path: KeyPath) -> None:
        here = (*path, str(key.value))
        if here[-1] in result:
            first = self.tree.key_places[here][0]
            message = f"the key '{key.value}' is already in line {first}; leave one of them"
            self.faults.append(self._fault(key, here, message))
            return
        self.tree.key_places[here] = _start(key)
        result[str(key.value)] = self.build(value, here)

    def _merge(self, result: dict[str, Any], node: yaml.Node, path: KeyPath) -> None:
        """Apply ``<<``: keys of the mapping itself win, then those of the first merged mapping that has them."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                message = "'<<' takes in a mapping; write '<<: *NAME' with the anchor of one"
                self.faults.append(self._fault(source, path, message))
                continue
            if id(source) in self._open:
                raise _UnbuildableError(
                    self._fault(source, path, "this anchor contains itself; write it out")
                )
            nested = _Builder(self.env, self.allowed)
            nested.tree.variables = self.tree.variables
            nested._values, nested._open = self._values, self._open
            entries = nested.build(source, path)
            self._values = nested._values
            self._take_in(nested, {key: value for key, value in entries.items() if key not in result}, path)
            result.update({key: value for key, value in entries.items() if key not in result})

    def _take_in(self, nested: _Builder, new: dict[str, Any], path: KeyPath) -> None:
        depth = len(path)
        for mine, theirs in (
            (self.tree.places, nested.tree.places),
            (self.tree.key_places, nested.tree.key_places),
        ):
            mine.update({at: place for at, place in theirs.items() if len(at) > depth and at[depth] in new})
        secrets = nested.tree.secrets.items()
        self.tree.secrets.update({at: name for at, name in secrets if len(at) > depth and at[depth] in new})
        known = {(fault.line, fault.column, fault.message) for fault in self.faults}  # at the anchor itself
        self.faults += [f for f in nested.faults if (f.line, f.column, f.message) not in known]

    def _plain_tag(self, node: yaml.Node, path: KeyPath, kind: str) -> None:
        if node.tag not in (f"{_PREFIX}{kind}", "!"):
            self._refuse_tag(node, path)

    def _refuse_tag(self, node: yaml.Node, path: KeyPath) -> None:
        tag = str(node.tag).replace(_PREFIX, "!!")
        self.faults.append(self._fault(node, path, f"the tag '{tag}' is not supported; remove it"))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = str(node.tag).removeprefix(_PREFIX)
        text = str(node.value)
        if kind in ("str", "!"):
            return self._expanded(node, text, path)
        convert = _SCALARS.get(kind)
        if convert is None:
            self._refuse_tag(node, path)
            return text
        try:
            return convert(text)
        except ValueError:
            shown = text if len(text) <= 40 else text[:40] + "..."
            self.faults.append(self._fault(node, path, f"'{shown}' is not a number; write another"))
            return None

    def _expanded(self, node: yaml.ScalarNode, text: str, path: KeyPath) -> str:
        def value(found: re.Match[str]) -> str:
            file, name, default = found[1], found[2], found[3]
            if found[0] == "$${":
                return "${"
            if not self._may_use(node, path, file or name):
                return ""
            if file is not None:
                self.tree.secrets[path] = file
                return self._content(node, path, file.removeprefix(FILE_PREFIX))
            if name is None:
                self._variable_fault(
                    node,
                    path,
                    "'${' begins no variable",
                    "write ${NAME}, ${file:PATH}, or $${ for '${' itself",
                )
                return ""
            self.tree.secrets[path] = name
            if name in self.env:
                return self._variable(node, path, name)
            if default is None:
                message = f"the environment variable '{name}' is not set"
                self._variable_fault(node, path, message, f"set it, or write ${{{name}:-DEFAULT}}")
            return default or ""

        return _VARIABLE.sub(value, text) if "${" in text else text

    def _may_use(self, node: yaml.Node, path: KeyPath, name: str | None) -> bool:
        """Whether the author of the text, who could read a value out, may use the variable ``name``."""
        if name is None:
            return True
        self.tree.variables.setdefault(name, _start(node)[0])
        if self.allowed is None or name in self.allowed:
            return True
        message = f"the file does not name ${{{name}}}, so other texts may not use it"
        hint = "name it in the configuration file first, or write the value"
        self._variable_fault(node, path, message, hint)
        return False

    def _variable(self, node: yaml.Node, path: KeyPath, name: str) -> str:
        """The text of a variable; Python hands over bytes that are not UTF-8 as halves of surrogate pairs."""
        text = self.env[name]
        try:
            text.encode()
        except UnicodeEncodeError:
            message = f"the environment variable '{name}' is not UTF-8 text"
            self._variable_fault(node, path, message, "set it to text")
            return ""
        return text

    def _content(self, node: yaml.Node, path: KeyPath, file: str) -> str:
        """The text of a file that holds a secret, without the line end that editors add."""
        try:
            with open(file, "rb") as opened:
                data = opened.read(MAX_SECRET_BYTES + 1)
            if len(data) <= MAX_SECRET_BYTES:
                return data.decode().removesuffix("\n").removesuffix("\r")
            reason = f"it has more than {MAX_SECRET_BYTES} bytes"
        except OSError as error:
            reason = str(error.strerror or error)
        except ValueError:  # UnicodeDecodeError, or a path with a NUL
            reason = "it is not UTF-8 text"
        message = f"the file '{file}' can't be read: {reason}"
        self._variable_fault(node, path, message, "write ${file:PATH} of a file with the value alone")
        return ""

    def _variable_fault(self, node: yaml.Node, path: KeyPath, message: str, hint: str) -> None:
        fault = Fault(*_start(node), render_path(path), message, hint)
        if fault not in self.faults[-1:]:
            self.faults.append(fault)

    def _fault(self, node: yaml.Node, path: KeyPath, message: str) -> Fault:
        return Fault(*_start(node), render_path(path), message)


def _int(text: str) -> int:
    if len(text) > 40:
        raise ValueError("too many digits")
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1:].isalpha() else float(text)


_BOOLS: Final = {"true": True, "false": False}


def _bool(text: str) -> bool:
    if text.lower() not in _BOOLS:
        raise ValueError("neither true nor false")
    return _BOOLS[text.lower()]


_SCALARS: Final[dict[str, Any]] = {"int": _int, "float": _float, "bool": _bool, "null": lambda text: None}
