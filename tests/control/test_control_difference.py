"""The difference of two configurations: right for any two texts, and never the work of seconds."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.report_document import route_section
from gateway.control.handlers import config as handlers
from gateway.control.reports import changes
from gateway.control.reports.changes import difference
from tests.control.conftest import Client

_RANGE = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")
texts = st.lists(st.sampled_from(["a", "b", "", "- c", "+ d", "@@"]), max_size=12)


def _applied(before: list[str], patch: str) -> list[str]:
    """What ``patch`` makes of ``before``, as the tool does it."""
    found: list[str] = []
    at = 0
    for line in patch.split("\n")[2:] if patch else []:
        hunk = _RANGE.fullmatch(line)
        if hunk is not None:
            start = int(hunk[1]) - (hunk[2] != "0")
            found += before[at:start]
            at = start
        elif line[0] == "+":
            found.append(line[1:])
        else:
            assert before[at] == line[1:]
            found += [line[1:]] if line[0] == " " else []
            at += 1
    return found + before[at:]


@pytest.mark.parametrize("most", [changes.MAX_MATCHES, -1])
@given(texts, texts)
def test_it_makes_the_one_text_of_the_other(most: int, before: list[str], after: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(changes, "MAX_MATCHES", most)
        found = difference("".join(f"{x}\n" for x in before), "".join(f"{x}\n" for x in after), "a", "b")
    assert _applied(before, found) == after
    assert (found == "") == (before == after)


def test_texts_of_a_few_lines_again_and_again_are_not_compared_line_by_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("this takes hours")

    before, after = ([f"#{i * step % 199}" for i in range(100_000)] for step in (1, 7))
    monkeypatch.setattr(changes, "unified_diff", refused)
    assert difference("\n".join(before), "\n".join(after), "a", "b").count("\n-") > 90_000


async def test_it_does_not_hold_the_event_loop(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def spied(*texts: str) -> str:
        threads.append(threading.get_ident())
        return difference(*texts)

    monkeypatch.setattr(handlers, "difference", spied)
    http = client("ops")
    text = (await http.get("/-/config")).text + "\n# more\n"
    assert (await http.post("/-/config/check", json={"text": text})).status_code == 200
    assert (await http.get("/-/config/difference", params={"from": 1, "to": 1})).status_code == 200
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_changes_are_told_as_the_gateway_reads_them() -> None:
    """YAML 1.1 has other words: a variant 'on' was called True, 010 was 8, and 1:30 was 90."""
    before = 'backends: {a: {url: "${URL}", on: 010, time: 1:30}}\n'
    after = 'backends: {a: {url: "$${URL}", off: 020, time: 1:40}}\n'
    assert changes.changes(before, after) == [
        "backends.a.url: ${URL} → $${URL}",
        "backends.a.on: removed (was 10)",
        "backends.a.time: 1:30 → 1:40",
        "backends.a.off: added, 20",
        "needs a restart: nothing",
    ]


def test_a_section_that_comes_or_goes_shows_no_secret() -> None:
    """Keys of secrets were looked for only where the two texts part."""
    before = "webhooks: [{url: u, secret: SECRET, headers: {authorization: SECRET}}]\n"
    after = "engines: {edge: {token: SECRET}}\nauth: {keys: [{id: SECRET}]}\n"
    said = changes.changes(before, after)
    assert said[:2] == [
        'webhooks: removed (was [{"url": "u", "secret": "…", "headers": {"authorization": "…)',
        'engines: added, {"edge": {"token": "…"}}',
    ]
    assert not any("SECRET" in one for one in said)


@pytest.mark.parametrize("text", ["", "listen: 127.0.0.1:1", "routes:", "routes: {s: {}}"])
def test_a_route_that_the_configuration_no_longer_has(text: str) -> None:
    """`turnout report` reads the configuration after the report, and it may have been replaced in between."""
    assert route_section(text, "r") is None
