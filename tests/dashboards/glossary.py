"""The glossary of the docs as a module of the dashboard, written by ``python -m tests.dashboards.glossary``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "docs" / "glossary.md"
MODULE: Final = ROOT / "dashboards" / "web" / "core" / "glossary.js"
_ROW: Final = re.compile(r"^\| (?!term \|)([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")


def terms() -> list[list[str]]:
    """Return each term of the docs with its meaning; links become plain text."""
    return [[term, _LINK.sub(r"\1", meaning)] for term, meaning in _ROW.findall(SOURCE.read_text("utf-8"))]


def shown() -> list[list[str]]:
    """Return those of the module."""
    text = MODULE.read_text("utf-8")
    found: list[list[str]] = json.loads(text[text.index("[") : text.rindex("]") + 1])
    return found


if __name__ == "__main__":
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in terms())
    head = "// Of docs/glossary.md, by `python -m tests.dashboards.glossary`: each term with its meaning.\n\n"
    MODULE.write_text(f"{head}export const GLOSSARY = [\n{rows}\n];\n", "utf-8")
