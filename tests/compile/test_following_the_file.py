"""The configuration file as a process follows it: what was refused stays so until it is mended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.compile.etags import etag
from gateway.compile.revisions import Revisions
from gateway.config.load import Examined
from gateway.config.watch import Signatures, signatures
from gateway.loops.configuration import Configuration
from gateway.state.base import StoreUnavailable
from gateway.state.store import Store
from tests.compile.test_revisions import BAD, ONE, THREE, TWO, Gateway, Read


class Followed:
    """A file, and the one process that follows it."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.file, self.certificate = folder / "turnout.yaml", folder / "cert.pem"
        self.file.write_text(ONE)
        self.certificate.write_text("first")
        self.gateway = Gateway()
        self.revisions: Revisions[Read] = self.gateway.revisions(store)
        self.configuration = Configuration(self.file, ONE, self.revisions, self.built)
        self.files = signatures([str(self.certificate)])

    def built(self) -> Signatures:
        return self.files

    async def look(self) -> None:
        for _ in range(3):
            await self.configuration.step()

    @property
    def listening(self) -> str:
        return self.revisions.document.listen


@pytest.fixture
async def followed(tmp_path: Path, store: Store) -> Followed:
    found = Followed(tmp_path, store)
    await found.revisions.start(ONE)
    await found.look()
    return found


async def test_a_refused_file_stays_refused_when_its_certificate_is_renewed(followed: Followed) -> None:
    followed.file.write_text(BAD)
    await followed.look()
    assert followed.revisions.problem is not None
    followed.certificate.write_text("renewed")
    await followed.look()
    assert len(followed.gateway.applied) == 2  # it is built with the new one
    assert followed.revisions.problem is not None
    await followed.configuration.reload()
    assert followed.revisions.problem is not None
    followed.file.write_text(ONE)
    await followed.look()
    assert followed.revisions.problem is None


async def test_an_emptied_file_is_refused(followed: Followed) -> None:
    followed.file.write_text("")
    await followed.look()
    assert followed.revisions.problem is not None
    assert "the file is empty" in str(followed.revisions.problem.error)


async def test_sighup_tries_a_refused_file_again(followed: Followed, tmp_path: Path) -> None:
    secret = tmp_path / "port"
    followed.file.write_text(f"listen: 127.0.0.1:${{file:{secret}}}\nroutes: {{}}\n")
    await followed.look()
    assert followed.revisions.problem is not None
    secret.write_text("7")
    await followed.configuration.reload()
    assert followed.revisions.problem is None
    assert followed.listening == "127.0.0.1:7"


async def test_a_file_that_is_back_is_no_problem_and_no_edit(followed: Followed) -> None:
    await followed.revisions.propose(TWO, "ops", "*")
    moved = followed.file.rename(followed.file.with_name("moved"))
    await followed.configuration.reload()
    assert followed.revisions.problem is not None
    moved.rename(followed.file)
    await followed.look()
    assert followed.revisions.problem is None
    assert followed.listening == "127.0.0.1:2"


async def test_an_edit_that_sighup_has_read_outlives_an_outage(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, first = followed.revisions.adopt_file, asyncio.Event()

    async def away(text: str) -> None:
        if text == TWO:
            await first.wait()
            await real(text)
        else:
            first.set()
            await asyncio.sleep(0.2)
            raise StoreUnavailable("away")

    monkeypatch.setattr(followed.revisions, "adopt_file", away)
    followed.file.write_text(TWO)
    await followed.configuration.step()
    slow = asyncio.create_task(followed.configuration.step())
    while followed.configuration._edit != TWO:
        await asyncio.sleep(0.01)
    followed.file.write_text(THREE)
    await followed.configuration.reload()
    await slow
    monkeypatch.undo()
    await followed.look()
    assert followed.listening == "127.0.0.1:3"


async def test_a_file_that_is_built_slowly_undoes_no_newer_edit(store: Store) -> None:
    """The PUT was acknowledged, and then undone by the other process that follows the same file."""
    gateway, began, may_end = Gateway(), asyncio.Event(), asyncio.Event()
    one, other = gateway.revisions(store), gateway.revisions(store)
    await one.start(ONE)
    await other.start(ONE)

    async def slowly(found: Examined, source: str) -> Read:
        began.set()
        await may_end.wait()
        return await gateway.prepare(found, source)

    other._prepare = slowly
    adopting = asyncio.create_task(other.adopt_file(TWO))
    await began.wait()
    await one.adopt_file(TWO)
    await one.propose(THREE, "ops", etag(TWO))
    may_end.set()
    assert await adopting is None
    assert [entry.etag for entry in await store.revision_entries()] == [etag(THREE), etag(TWO), etag(ONE)]
    assert await other.refresh() == one.current
