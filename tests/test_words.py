"""Retired words must not return to the prose that has been rewritten in plain English.

`REWRITTEN` grows with each file that is rewritten. Code spans, code blocks and identifiers are exempt,
because names of options, fields and events are part of the public interface.
"""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
RETIRED: Final = {
    # HTTP's own terms: RFC 9110 and every client say response.
    r"answer(s|ed|ing)?": "response, respond, serve",
    # Words that a reader whose first language is not English has to look up.
    r"anew": "again, from the beginning",
    r"for ?ever": "without limit, never",
    r"nobody": "no client, not … by anyone",
    r"(whoever|whom)": "the client that, the variant that",
    r"by way of": "through",
    r"beside": "next to, in addition to",
    r"as ever": "as usual",
    r"likewise": "in the same way",
    # Words with two readings: "at once" is a time or a number, "so long" a condition or a duration.
    r"at once": "immediately, at the same time",
    r"so (long|many)": "for this long, this many, at most N",
    r"(is|are) no(?! (longer|more))(?<!there is no)(?<!there are no)": "is not",
    # Data does not act or feel.
    r"ill": "unhealthy",
    r"forgiven": "reset, decayed",
    r"(is|are|be) told": "get, is reported",
    # Clauses where a noun exists.
    r"(under|on the) way": "in flight",
    r"the (most|least) (that|of|requests)": "maximum, minimum",
    r"(thrown|threw) away": "discarded",
}
"""Regular expression of a retired word → what to write instead."""
ANY: Final = re.compile(rf"\b({'|'.join(RETIRED)})\b", re.IGNORECASE)
REWRITTEN: Final = (
    "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "config.example.yaml", "docs/**/*.md",
    "examples/**/*.md", "examples/**/*.py", "gateway/**/*.py", "policies/**/*.py",
    "dashboards/web/*.js", "dashboards/web/*.html", "dashboards/web/[!v]*/*.js", "dashboards/grafana/*.json",
    "deploy/helm/turnout/files/*.yaml",
)  # fmt: skip
"""Files, or globs of files."""


SQL: Final = re.compile(r"\b(CREATE|SELECT|INSERT|UPDATE|excluded)\b")
"""In a string that holds a statement: its words are names of columns."""
STRINGS: Final = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
"""Tokens that hold text; Python 3.12 and later split formatted strings."""


def python_prose(text: str) -> list[tuple[int, str]]:
    """Line number and text of the comments, and of the strings that hold more than one word."""
    return [
        (token.start[0], re.sub(r"\{[^{}]*\}", "", token.string))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
        or (token.type in STRINGS and " " in token.string.strip() and not SQL.search(token.string))
    ]


def prose(name: str, text: str) -> list[tuple[int, str]]:
    """Line number and text of the prose in a file, without code."""
    if name.endswith(".py"):
        pieces = python_prose(text)
    else:
        blank = re.sub(
            r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL
        )
        pieces = list(enumerate(blank.splitlines(), 1))
    return [(line, re.sub(r"(`+).*?\1|<a id=\S*>|\]\([^)]*\)", "", piece)) for line, piece in pieces]


def retired(name: str, text: str) -> list[str]:
    return [
        f"{name}:{line}: '{found[0]}'; write: {instead}"
        for line, piece in prose(name, text)
        if ANY.search(piece)
        for word, instead in RETIRED.items()
        for found in re.finditer(rf"\b{word}\b", piece, re.IGNORECASE)
    ]


@pytest.mark.parametrize("pattern", REWRITTEN)
def test_no_retired_word_returns(pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files
    found = [line for file in files for line in retired(str(file.relative_to(ROOT)), file.read_text())]
    assert not found, "\n".join(found)


def test_a_retired_word_is_found_in_prose_and_not_in_code() -> None:
    page = "The answer is `answer`.\n```yaml\nanswer: 1\n```\nThere is no fault. It is no fault.\n"
    assert [line.split(";")[0] for line in retired("page.md", page)] == [
        "page.md:1: 'answer'",
        "page.md:5: 'is no'",
    ]
    module = 'answer = "answer"  # an answer\n"""Kept for ever."""\n'
    assert [line.split(";")[0] for line in retired("module.py", module)] == [
        "module.py:1: 'answer'",
        "module.py:2: 'for ever'",
    ]
