"""TOML files whose keys are taken one by one, so that those which were not can be reported."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from gateway.config.faults import ConfigError, Fault, unknown
from gateway.config.load import read_text
from gateway.config.yaml_text import MAX_CHARACTERS
from gateway.telemetry.printable import printable

Kind = TypeVar("Kind")
KeyPath = tuple[str, ...]
_PLACE: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_HEADER: Final = re.compile(r"\s*\[\[?(.+?)\]\]?\s*(?:#.*)?$")
_KEY: Final = re.compile("([^=#]+)=")
_NAMES: Final = {dict: "a table", list: "a list", str: "a text", bool: "true or false"}


class TomlFiles:
    """Several files as one document, as if they were written one below the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises ConfigError: a file can't be read, is not TOML, or repeats a key of another."""
        self._texts: dict[str, str] = {}
        data: dict[str, Any] = {}
        for path in paths:
            self._texts[str(path)] = text = _text(path)
            self._merge(data, _parsed(path, text), ())
        self.top = Table(data, (), self)

    def fail(self, path: KeyPath, message: str) -> NoReturn:
        """Raise ConfigError with the file and the line of ``path``, or of the table that it is in."""
        for length in range(len(path), 0, -1):
            for source, text in self._texts.items():
                line = _line(text, path[:length])
                if line:
                    raise ConfigError(source, [Fault(line, 1, shown(path), one_line(message))])
        raise ConfigError(", ".join(self._texts), [Fault(0, 0, shown(path), one_line(message))])

    def _merge(self, into: dict[str, Any], more: Mapping[str, Any], path: KeyPath) -> None:
        for key, value in more.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                self._merge(into[key], value, here)
            elif _of_tables(value) and _of_tables(into.get(key)):
                into[key] += value
            elif key in into:
                self.fail(here, "two of the files have this key; leave one of them out")
            else:
                into[key] = value


class Table:
    """One table. A key that was taken is gone; `rest` are the others."""

    def __init__(self, data: dict[str, Any], path: KeyPath, files: TomlFiles) -> None:
        self._data = dict(data)
        self.path = path
        self._files = files

    def take(self, key: str, kind: type[Kind] | tuple[type[Kind], ...]) -> Kind | None:
        """The value of ``key``, None if it is absent. Raises ConfigError if it is of another kind."""
        value = self._data.pop(key, None)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if value is not None and (
            not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        ):
            wanted = " or ".join(dict.fromkeys(_NAMES.get(one, "a number") for one in kinds))
            self.fail(f"this is not {wanted}; write one", key)
        return value

    def number(self, key: str) -> float | None:
        """A number that is finite and not negative."""
        value = self.take(key, (int, float))
        if value is not None and not 0 <= value < 1e15:
            self.fail("this is not a number from 0; write one", key)
        return value

    def words(self, key: str) -> list[str]:
        """A list of texts; empty if absent."""
        value: list[Any] = self.take(key, list) or []
        if not all(isinstance(word, str) for word in value):
            self.fail("this is not a list of texts; write one", key)
        return value

    def table(self, key: str) -> Table:
        """The table at ``key``, an empty one if it is absent."""
        return Table(self.take(key, dict) or {}, (*self.path, key), self._files)

    def tables(self, key: str) -> dict[str, Table]:
        """The table at ``key``, of which every value is a table."""
        inner = self.table(key)
        return {name: inner.table(name) for name in inner.rest()}

    def rest(self) -> list[str]:
        """Keys that were not taken."""
        return list(self._data)

    def drop(self) -> None:
        """Take all keys."""
        self._data.clear()

    def fail_unknown(self, what: str, word: str, known: Iterable[str], *keys: str) -> NoReturn:
        """Raise ConfigError: there is no ``what`` of the name ``word``."""
        message, hint = unknown(what, word, known)
        self.fail(message + (f" ({hint})" if hint else ""), *keys)

    def fail(self, message: str, *keys: str) -> NoReturn:
        self._files.fail((*self.path, *keys), message)


def shown(path: KeyPath) -> str:
    """``path`` as TOML writes it, on one line."""
    return one_line(".".join(key if re.fullmatch("[A-Za-z0-9_-]+", key) else f'"{key}"' for key in path))


def one_line(text: str) -> str:
    """``text`` with line ends and other control characters as escapes."""
    return printable(text).replace("\n", "\\n")


def _of_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def _text(path: Path) -> str:
    text = read_text(path, absent="name yours").removeprefix("\ufeff")
    if len(text) > MAX_CHARACTERS:
        message = f"the file has more than {MAX_CHARACTERS} characters; divide it into several files"
        raise ConfigError(str(path), [Fault(0, 0, "", message)])
    return text


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.fullmatch(str(error))
        what = found[1] if found else str(error)
        line, column = (found[2], found[3]) if found else (None, None)
        end = text.count("\n") + 1
        fault = Fault(int(line or end), int(column or 1), "", one_line(f"this is not TOML: {what}"))
    except (RecursionError, ValueError) as error:  # nested a thousand deep; a number of 5,000 digits
        fault = Fault(0, 0, "", one_line(f"this is not a configuration: {error}"))
    raise ConfigError(str(path), [fault])


def _line(text: str, path: KeyPath) -> int:
    """The line on which ``path`` begins, counted from 1; 0 if it is not found."""
    return next((number for number, found in _positions(text) if found[: len(path)] == path), 0)


def _positions(text: str) -> Iterator[tuple[int, KeyPath]]:
    header: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if found := _HEADER.match(line):
            header = _keys(found[1])
            yield number, header
        elif found := _KEY.match(line):
            yield number, (*header, *_keys(found[1]))


def _keys(text: str) -> KeyPath:
    try:
        found: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(found, dict):
        path += found
        found = found[path[-1]]
    return tuple(path)
