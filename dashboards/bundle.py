"""The dashboard's modules joined into one script, so that a page needs no waterfall of requests.

It understands what the modules are written in and no more: `import { a, b } from "./x.js"`, `import("./x.js")` and
`export` before a function, class or const at the start of a line. The vendored ones end in one `export { … }` (an
ES module) or define one global (`GLOBALS`).

What is imported by `import("./x.js")` is a part: a module of its own, loaded when it is first needed. It uses what
the script has declared already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from posixpath import basename, dirname, join, normpath
from typing import Final

GLOBALS: Final = {"vendor/uplot.js": "uPlot"}
"""Modules that are plain scripts, and what each defines."""

_IMPORT: Final = re.compile(r'^import \{([\w,\s]+)\} from "(\.{1,2}/[\w./-]+)";\n', re.MULTILINE)
_PART: Final = re.compile(r'\bimport\("(\.{1,2}/[\w./-]+)"\)')
_EXPORT: Final = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)
_COMMENT: Final = re.compile(r"^[ \t]*//.*\n|^[ \t]+|[ \t]+// [\w ,;:.'-]+$", re.MULTILINE)
"""Lines of comment, indentation, and comments at the end of a line: a third of what is sent."""
_LINE_END: Final = re.compile(r";?\n+(?=})|(?<=[;{,(\[=>?:])\n+|\n+(?=[\n\]).?:&|])")
"""Line ends that end no statement. What is between them stays as it is: a text for people may look like code."""
_OPERATOR: Final = re.compile(r" (=>|===|!==|&&|\|\||\?\?|>=|<=|\+=) ")
_DECLARATION: Final = re.compile(r"^((?:const|let) (?:[\w$]+|\{[^}\n]*\}|\[[^\]\n]*\])) = ", re.MULTILINE)
_BRACE: Final = re.compile(r"(?<=\{) (?=[\w.\[])|(?<=[\w)\]\"]) (?=\})")
"""Spaces in what no text for people contains: around operators, in declarations, inside braces."""
_EXPORTS: Final = re.compile(r"export\{([\w ,]+)\};?\s*$")


Read = Callable[[str], str]
"""Gives a module's text by its name."""


def modules(entry: str, read: Read) -> list[str]:
    """Return ``entry`` and all that it imports, each after what it imports itself.

    Raises:
        ValueError: Modules import each other.
    """
    order: list[str] = []
    _visit(entry, read, order, ())
    return order


def parts(entry: str, read: Read) -> list[str]:
    """Return what the modules of ``entry`` import when they need it."""
    return [_resolved(name, other) for name in modules(entry, read) for other in _PART.findall(read(name))]


def bundle(entry: str, read: Read, addresses: Mapping[str, str] | None = None) -> str:
    """Return one script of ``entry`` and all that it imports; ``addresses`` says where its parts are served.

    Raises:
        ValueError: A module imports itself, or is written otherwise.
    """
    joined = [_wrapped(name, read(name), addresses or {}) for name in modules(entry, read)]
    return "'use strict';\n" + "\n".join(joined) + "\n"


def part(name: str, entry: str, read: Read) -> str:
    """Return the part ``name`` of ``entry`` as a module."""
    known = set(modules(entry, read))
    joined = [_wrapped(one, read(one), {}) for one in modules(name, read) if one not in known]
    return (
        "\n".join(joined) + f"\nexport const{{{', '.join(_EXPORT.findall(read(name)))}}}={_variable(name)};\n"
    )


def _visit(name: str, read: Read, order: list[str], path: tuple[str, ...]) -> None:
    if name in path:
        raise ValueError(f"modules import each other: {' → '.join((*path, name))}")
    if name in order:
        return
    for _, other in _IMPORT.findall(read(name)):
        _visit(_resolved(name, other), read, order, (*path, name))
    order.append(name)


def _resolved(name: str, other: str) -> str:
    return normpath(join(dirname(name), other))


def _wrapped(name: str, text: str, addresses: Mapping[str, str]) -> str:
    """The module as a constant that holds what it exports."""
    if name in GLOBALS:
        exported = GLOBALS[name]
    elif vendored := _EXPORTS.search(text):
        text = text[: vendored.start()]
        pairs = (part.partition(" as ") for part in vendored[1].split(","))
        exported = ", ".join(f"{theirs or ours}: {ours}" for ours, _, theirs in pairs)
    else:
        exported = ", ".join(_EXPORT.findall(text))
        text = _PART.sub(lambda found: f'import("./{addresses[_resolved(name, found[1])]}")', text)
        text = _DECLARATION.sub(r"\1=", _script(name, text))
        text = _BRACE.sub("", _LINE_END.sub("", _OPERATOR.sub(r"\1", text)))
    return f"const {_variable(name)}=(()=>{{{text}\nreturn{{{exported}}}}})();"


def _script(name: str, text: str) -> str:
    """A module of ours as it runs inside a function: without comments, imports taken from the other constants."""
    text = _IMPORT.sub(
        lambda found: f"const {{ {' '.join(found[1].split())} }} = {_variable(_resolved(name, found[2]))};\n",
        _COMMENT.sub("", text),
    )
    text = re.sub(r"^export (?=(?:async )?(?:function|class|const) )", "", text, flags=re.MULTILINE)
    if re.search(r"^(?:import|export)\b", text, re.MULTILINE):
        raise ValueError(f"{name}: an import or export that the bundle does not understand")
    return text


def _variable(name: str) -> str:
    return "$" + basename(name).removesuffix(".js")
