"""The last state of a shared store on the disk: private, whole, and of one store."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from gateway.state.base import Revision
from gateway.state.last_state import LastState
from gateway.state.memory import Memory
from tests.support.made import T0, published

REVISION = Revision(3, T0, "ops", '"e"', "PUT", document="routes: {}\n# ü\n")
STORE = "redis://h:6379/0?prefix=turnout"


def full() -> Memory:
    memory = Memory()
    memory.remember_secrets("decision-id", (bytes(32), bytes(range(32))))
    memory.remember_published(published(6))
    memory.remember_published(published(7), b"\x00ensemble")
    memory.remember_document("route", "digits", 4, '{"rollout": null}')
    memory.remember_document("history", "digits", 9, "[]")
    memory.remember_revisions([REVISION])
    return memory


def last_state(folder: Path, memory: Memory, store: str = STORE) -> LastState:
    return LastState(folder / "data", store, memory, lambda: T0)


async def test_what_a_start_needs_is_read_back(tmp_path: Path) -> None:
    written = last_state(tmp_path, full())
    await written.step()
    memory = Memory()
    assert last_state(tmp_path, memory).read() == T0
    assert await memory.secrets("decision-id") == (bytes(32), bytes(range(32)))
    assert await memory.published() == {"digits": published(7)}
    assert await memory.ensemble("digits", 7) == b"\x00ensemble"
    assert await memory.ensemble("digits", 6) is None
    assert await memory.load_all("route", ["digits"]) == {"digits": (4, '{"rollout": null}')}
    assert await memory.load_all("history", ["digits"]) == {}  # a start does not need it
    assert await memory.revisions() == [REVISION]


async def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    written = last_state(tmp_path, full())
    await written.step()
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(written.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in written.path.parent.iterdir()] == [written.path.name]


async def test_it_is_written_when_something_has_changed(tmp_path: Path) -> None:
    memory = full()
    written = last_state(tmp_path, memory)
    await written.step()
    written.path.unlink()
    memory.remember_published(published(7), b"\x00ensemble")
    memory.remember_document("route", "digits", 3, "older")
    await written.step()
    assert not written.path.exists()
    memory.remember_published(published(8))
    await written.step()
    assert written.path.exists()


async def test_another_store_has_another_file(tmp_path: Path) -> None:
    await last_state(tmp_path, full()).step()
    for other in ("redis://h:6379/1?prefix=turnout", "redis://h:6379/0?prefix=blue"):
        assert last_state(tmp_path, Memory(), other).read() is None


HEAD = f'{{"store": "{STORE}", "time": 1, "format": 1'
SECRET = '"secrets": {"decision-id": ["00"]}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"store": "x"}',
        "\x00\xff",
        "[" * 100_000,
        f'{HEAD}, "secrets": []}}',
        f'{HEAD}, {SECRET}, "published": [], "documents": [1], "revisions": []}}',
    ],
)
async def test_a_damaged_file_is_said_and_not_used(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    written = last_state(tmp_path, full())
    await written.step()
    written.path.write_text(text)
    memory = Memory()
    assert last_state(tmp_path, memory).read() is None
    assert "can't be used" in caplog.text
    assert not memory.known_secrets  # no part of it either: it would be written to the store as lost


async def test_processes_with_the_same_id_do_not_write_into_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers that share a volume."""
    other = last_state(tmp_path, Memory())
    memory = full()
    replaced: list[Path] = []
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if not replaced:
            replaced.append(self)
            other._memory.remember_secrets("a", (b"b",))
            other._write({"store": STORE, **other._memory.packed(frozenset())})
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    written = last_state(tmp_path, memory)
    await written.step()
    assert replaced
    found = Memory()
    assert last_state(tmp_path, found).read() == T0
    assert found.known_secrets == memory.known_secrets
    assert [path.name for path in written.path.parent.iterdir()] == [written.path.name]


async def test_a_directory_that_cant_be_written_is_said_one_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").write_text("a file")
    memory = full()
    written = last_state(tmp_path, memory)
    with caplog.at_level(logging.WARNING):
        await written.step()
        memory.remember_published(published(8))
        await written.step()
    assert caplog.text.count("can't be written") == 1
