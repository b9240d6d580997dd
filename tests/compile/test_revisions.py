"""Revisions over a real store: If-Match, refusal, restart, several processes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.compile import edit_lease
from gateway.compile.etags import etag, matches
from gateway.compile.revisions import Revisions
from gateway.config.document import Document
from gateway.config.faults import Fault
from gateway.config.load import ConfigError, Examined
from gateway.errors import TurnoutError
from gateway.state.base import Revision
from gateway.state.sqlite import SqliteStore
from gateway.state.store import Store

ONE = "listen: 127.0.0.1:1\nroutes: {}\n"
TWO = "listen: 127.0.0.1:2\nroutes: {}\n"
THREE = "listen: 127.0.0.1:3\nroutes: {}\n"
BAD = "listen: nowhere\n"
NAMING = ONE + "store: 'sqlite:///${PORT:-t}.db'\n"
"""Names a variable that other texts may use, then."""


@dataclass(frozen=True)
class Read:
    """A document of which nothing is built."""

    document: Document


class Gateway:
    """What the server does with documents, and a clock."""

    def __init__(self) -> None:
        self.applied: list[tuple[str, int]] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.now = 1000.0

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    async def prepare(self, found: Examined, source: str) -> Read:
        if found.document is None:
            raise ConfigError(source, found.faults)
        if found.document.listen.endswith(":13"):
            raise ConfigError(source, [Fault(0, 0, "listen", "13 brings bad luck")])
        return Read(found.document)

    def commit(self, built: Read, revision: Revision) -> None:
        self.applied.append((built.document.listen, revision.revision))

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        self.told.append((kind, dict(data)))

    def revisions(
        self,
        store: Store,
        env: dict[str, str] | None = None,
        origin: str = "host:/turnout.yaml",
        earlier: str = "",
    ) -> Revisions[Read]:
        return Revisions(
            store,
            clock=self.clock,
            env=env or {},
            prepare=self.prepare,
            commit=self.commit,
            tell=self.tell,
            origin=origin,
            earlier=earlier,
        )


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def revisions(store: Store, gateway: Gateway) -> Revisions[Read]:
    made = gateway.revisions(store)
    await made.start(ONE)
    return made


def listening(revisions: Revisions[Read]) -> str:
    return revisions.document.listen.removeprefix("127.0.0.1:")


async def code(proposal: object) -> str:
    with pytest.raises(TurnoutError) as caught:
        await proposal  # type: ignore[misc]
    return caught.value.code


def test_an_etag_is_strong_and_follows_the_text() -> None:
    assert etag(ONE) == etag(ONE) != etag(TWO)
    assert etag(ONE)[0] == etag(ONE)[-1] == '"'


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ('"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ('W/"a"', False), ("a", False),
        ("", False),
    ],
)  # fmt: skip
def test_matching(field: str, found: bool) -> None:
    assert matches(field, '"a"') is found


async def test_nothing_is_in_force_before_the_start(store: Store, gateway: Gateway) -> None:
    with pytest.raises(RuntimeError, match="start"):
        _ = gateway.revisions(store).document


async def test_the_file_becomes_the_first_revision(revisions: Revisions[Read], gateway: Gateway) -> None:
    assert (revisions.current.revision, revisions.current.author) == (1, "file")
    assert revisions.current.etag == etag(ONE)
    assert gateway.applied == [("127.0.0.1:1", 1)]


async def test_workers_that_start_together_do_not_wait_for_one_another(
    store: Store, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.revisions(store).start(ONE)
    monkeypatch.setattr(edit_lease, "_PATIENCE", (0.01, 3))
    together, prepare = asyncio.Barrier(5), gateway.prepare

    async def slow(found: Examined, source: str) -> Read:
        await together.wait()
        return await prepare(found, source)

    monkeypatch.setattr(gateway, "prepare", slow)
    starts = asyncio.gather(*(gateway.revisions(store).start(ONE) for _ in range(5)))
    assert [one.revision for one in await asyncio.wait_for(starts, 60)] == [1] * 5


async def test_an_edit(revisions: Revisions[Read], gateway: Gateway) -> None:
    revision = await revisions.propose(TWO, "ops", etag(ONE))
    assert (revision.revision, revision.author, revision.document) == (2, "ops", TWO)
    assert revisions.current == revision
    assert gateway.applied[-1] == ("127.0.0.1:2", 2)


async def test_if_match_is_needed_and_must_be_right(revisions: Revisions[Read]) -> None:
    assert await code(revisions.propose(TWO, "ops", None)) == "precondition_required"
    assert await code(revisions.propose(TWO, "ops", etag(THREE))) == "precondition_failed"
    assert await code(revisions.propose(TWO, "ops", "W/" + etag(ONE))) == "precondition_failed"
    assert listening(revisions) == "1"
    await revisions.propose(TWO, "ops", "*")
    assert listening(revisions) == "2"


@pytest.mark.parametrize(
    ("text", "said"),
    [(BAD, "nowhere"), (ONE.replace(":1\n", ":13\n"), "bad luck")],
)
async def test_what_is_refused_changes_nothing(
    text: str, said: str, revisions: Revisions[Read], gateway: Gateway, store: Store
) -> None:
    with pytest.raises(ConfigError, match=said):
        await revisions.propose(text, "ops", etag(ONE))
    assert listening(revisions) == "1"
    assert len(gateway.applied) == 1
    assert len(await store.revisions()) == 1
    await revisions.propose(TWO, "ops", etag(ONE))  # and nothing is left behind


async def test_the_text_in_force_again_is_no_revision(revisions: Revisions[Read], gateway: Gateway) -> None:
    assert (await revisions.propose(ONE, "ops", etag(ONE))).revision == 1
    assert len(gateway.applied) == 1


async def test_warnings_are_logged(revisions: Revisions[Read], caplog: pytest.LogCaptureFixture) -> None:
    await revisions.propose("listen: 0.0.0.0:5\nroutes: {}\n", "ops", "*")
    assert "the configuration by ops:1:9: listen: without 'auth' everyone" in caplog.text


async def test_of_many_edits_at_once_one_wins(
    store: Store, gateway: Gateway, revisions: Revisions[Read]
) -> None:
    others = [gateway.revisions(store) for _ in range(3)]
    for other in others:
        await other.start(ONE)
    texts = [f"listen: 127.0.0.1:{port}\nroutes: {{}}\n" for port in range(100, 112)]
    tries = [
        (revisions, *others)[index % 4].propose(text, "ops", etag(ONE)) for index, text in enumerate(texts)
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    won = [result for result in results if isinstance(result, Revision)]
    lost = [result.code for result in results if isinstance(result, TurnoutError)]
    assert len(won) == 1
    assert lost == ["precondition_failed"] * 11
    assert [found.revision for found in await store.revisions()] == [2, 1]


async def test_workers_that_start_together_make_one_revision(store: Store, gateway: Gateway) -> None:
    workers = [gateway.revisions(store) for _ in range(4)]
    await asyncio.gather(*(worker.start(ONE) for worker in workers))
    assert {worker.current.revision for worker in workers} == {1}
    assert len(await store.revisions()) == 1


async def test_restoring(revisions: Revisions[Read]) -> None:
    await revisions.propose(TWO, "ops", etag(ONE))
    restored = await revisions.restore(1, "ops", etag(TWO))
    assert (restored.revision, restored.document, listening(revisions)) == (3, ONE, "1")
    assert await code(revisions.restore(9, "ops", etag(ONE))) == "not_found"
    assert await code(revisions.restore(2, "ops", etag(TWO))) == "precondition_failed"
    assert await code(revisions.restore(2, "ops", None)) == "precondition_required"


async def test_a_bad_file_is_a_problem_until_a_good_one_comes(revisions: Revisions[Read]) -> None:
    assert await revisions.adopt_file(BAD) is None
    assert listening(revisions) == "1"
    assert revisions.problem is not None
    (fault,) = revisions.problem.error.faults
    assert (fault.line, fault.path) == (1, "listen")
    adopted = await revisions.adopt_file(TWO)
    assert adopted is not None
    assert adopted.author == "file"
    assert revisions.problem is None


async def test_a_file_that_returns_to_the_text_in_force_says_so(
    revisions: Revisions[Read], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for _ in range(2):
        await revisions.adopt_file(BAD)
    await revisions.adopt_file(ONE)
    await revisions.adopt_file(ONE)
    assert revisions.problem is None
    assert caplog.text.count("configuration revision 1 stays in force: the fault is gone") == 1


async def test_a_restart_keeps_what_was_edited(
    store: Store, gateway: Gateway, revisions: Revisions[Read]
) -> None:
    await revisions.propose(TWO, "ops", etag(ONE))
    again = gateway.revisions(store)
    await again.start(ONE)
    assert (again.current.revision, listening(again)) == (2, "2")


async def test_an_old_file_is_no_edit_though_its_text_is_not_kept(
    store: Store, gateway: Gateway, revisions: Revisions[Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("gateway.state.sqlite.control", "gateway.state.redis.control"):
        monkeypatch.setattr(f"{module}.MAX_REVISION_TEXTS", 2)
    for text in (TWO, THREE, TWO + "# again\n"):
        await revisions.propose(text, "ops", "*")
    assert await code(revisions.restore(1, "ops", "*")) == "not_found"
    again = gateway.revisions(store)
    await again.start(ONE)
    assert (again.current.revision, listening(again)) == (4, "2")


async def test_an_edit_reads_no_earlier_text(
    store: Store, revisions: Revisions[Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (TWO, THREE, TWO + "# again\n"):
        await revisions.propose(text, "ops", "*")
    numbers: list[int] = []

    async def recorded(**query: Any) -> list[Revision]:
        found = await type(store).revisions(store, **query)
        numbers.extend(revision.revision for revision in found)
        return found

    monkeypatch.setattr(store, "revisions", recorded)
    await revisions.propose(THREE, "ops", "*")
    await revisions.adopt_file(TWO)
    assert not numbers


@pytest.mark.parametrize("kept", [True, False])
async def test_a_worker_whose_file_has_a_fault_allows_the_variables_of_the_last_good_file(
    store: Store, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    env, gateway = {"PORT": "5"}, Gateway()
    if not kept:
        for module in ("gateway.state.sqlite.control", "gateway.state.redis.control"):
            monkeypatch.setattr(f"{module}.MAX_REVISION_TEXTS", 1)
    first = gateway.revisions(store, env)
    await first.start(NAMING)
    await first.propose("listen: 127.0.0.1:${PORT}\nroutes: {}\n", "ops", "*")
    replaced = gateway.revisions(store, env, earlier="" if kept else NAMING)
    await replaced.start(None)
    assert (replaced.current.revision, listening(replaced)) == (2, "5")


async def test_a_restart_with_an_edited_file_takes_the_file(
    store: Store, gateway: Gateway, revisions: Revisions[Read]
) -> None:
    await revisions.propose(TWO, "ops", etag(ONE))
    again = gateway.revisions(store)
    await again.start(THREE)
    assert (again.current.revision, listening(again)) == (3, "3")


async def test_a_start_with_a_bad_file_fails_with_every_fault(store: Store, gateway: Gateway) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        await gateway.revisions(store).start(BAD)
    assert await store.revisions() == []


@pytest.mark.long
async def test_a_restart_where_the_newest_does_not_load(store: Store, gateway: Gateway) -> None:
    """A replica with another environment goes on with the file, and says so."""
    first = gateway.revisions(store, env={"PORT": "5"})
    await first.start(NAMING)
    await first.propose("listen: 127.0.0.1:${PORT}\nroutes: {}\n", "ops", "*")
    assert listening(first) == "5"
    other = gateway.revisions(store)
    await other.start(NAMING)
    assert (other.current.revision, listening(other)) == (1, "1")
    assert other.problem is not None
    assert "'PORT' is not set" in str(other.problem.error)


async def test_replicas_follow_one_another(
    store: Store, gateway: Gateway, revisions: Revisions[Read]
) -> None:
    other = gateway.revisions(store)
    await other.start(ONE)
    assert await other.refresh() is None
    await revisions.propose(TWO, "ops", etag(ONE))
    assert (await revisions.may_publish(False), await other.may_publish(True)) == (True, False)
    assert await other.refresh() == revisions.current
    assert (listening(other), await other.refresh(), await other.may_publish(False)) == ("2", None, True)
    # An edit by way of the one that has not heard yet is made on what the store has.
    await other.propose(THREE, "ops", etag(TWO))
    assert await code(revisions.propose(ONE, "ops", etag(TWO))) == "precondition_failed"
    await revisions.propose(ONE, "ops", etag(THREE))
    assert revisions.current.revision == 4


async def test_a_foreign_revision_that_does_not_load_here_is_told_once(
    store: Store, gateway: Gateway
) -> None:
    rich = gateway.revisions(store, env={"PORT": "5"})
    poor = gateway.revisions(store)
    await rich.start(NAMING)
    await poor.start(NAMING)
    await rich.propose("listen: 127.0.0.1:${PORT}\nroutes: {}\n", "ops", "*")
    assert await poor.refresh() is None
    problem = poor.problem
    assert problem is not None
    assert await poor.refresh() is None
    assert poor.problem is problem
    assert listening(poor) == "1"
    assert (await poor.may_publish(False), await poor.may_publish(True), poor.lags) == (False, True, True)
    await rich.propose(THREE, "ops", "*")
    assert await poor.refresh() is not None
    assert (poor.problem, poor.lags) == (None, False)


READER = "routes: {}\nbackends:\n  a: {url: 'http://h', headers: {x-key: '${KEY}', x-home: '${HOME:-}'}}\n"


async def test_the_api_uses_only_variables_that_the_file_names(store: Store) -> None:
    """S24: who may write the configuration could read out every variable of the process."""
    env = {"KEY": "k", "HOME": "/somewhere"}
    revisions = Gateway().revisions(store, env)
    await revisions.start(
        ONE + "# ${HOME} and $${HOME} do not count\nbackends: {b: {url: 'http://${KEY}'}}\n"
    )
    with pytest.raises(ConfigError) as refused:
        await revisions.propose(READER, "ops", "*")
    (fault,) = refused.value.faults
    assert (fault.line, fault.message) == (
        3,
        "the file does not name ${HOME}, so other texts may not use it",
    )
    assert await revisions.propose(READER.replace("${HOME:-}", "no"), "ops", "*")
    assert await revisions.adopt_file(READER), "the file may"
    assert await revisions.propose(READER.replace("x-home", "x-house"), "ops", "*")


async def test_a_worker_that_sees_an_edited_file_late_follows_what_came_after_it(store: Store) -> None:
    """It refused the PUT, which named a variable that its old text of the file did not, until it was restarted."""
    env = {"KEY": "k", "HOME": "/somewhere"}
    one, two = Gateway().revisions(store, env), Gateway().revisions(store, env)
    await one.start(ONE)
    await two.start(ONE)
    assert await one.adopt_file(READER)
    assert await one.propose(READER.replace("x-home", "x-house"), "ops", "*")
    assert await two.refresh() is None, "its file has not settled yet"
    assert two.problem is not None
    assert await two.adopt_file(READER) is None
    assert await two.refresh() == one.current
    assert two.problem is None


@pytest.mark.parametrize("spelling", [r'"\x24{HOME}"', '"a\n  #${HOME}"', '"$\\\n  {HOME}"'])
async def test_no_spelling_hides_a_variable_from_the_check(store: Store, spelling: str) -> None:
    revisions = Gateway().revisions(store, {"HOME": "/somewhere"})
    await revisions.start(ONE)
    text = f"{ONE}backends:\n b:\n  url: 'http://h'\n  headers:\n   x-home: {spelling}\n"
    with pytest.raises(ConfigError, match="does not name"):
        await revisions.propose(text, "ops", "*")


async def test_the_api_reads_only_files_that_the_file_names(store: Store, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.write_text("a")
    other.write_text("b")
    revisions = Gateway().revisions(store, {})
    text = f"{ONE}backends: {{b: {{url: 'http://h', headers: {{x-key: '${{file:{own}}}'}}}}}}\n"
    await revisions.start(text)
    with pytest.raises(ConfigError) as refused:
        await revisions.propose(text.replace(str(own), str(other)), "ops", "*")
    assert "the file does not name ${file:" in str(refused.value)
    assert await revisions.propose(text.replace("x-key", "x-token"), "ops", "*")
    assert revisions.document.backends["b"].headers == {"x-token": "a"}


async def test_a_variable_that_is_not_set_is_refused_like_one_that_is(store: Store) -> None:
    revisions = Gateway().revisions(store, {"HOME": "/somewhere"})
    await revisions.start(ONE)
    said = set()
    for name in ("HOME", "NOWHERE"):
        with pytest.raises(ConfigError) as refused:
            await revisions.propose(TWO + f"# x\nstore: 'sqlite:///${{{name}}}'\n", "ops", "*")
        said.add(str(refused.value).replace(name, "NAME"))
    assert len(said) == 1


async def test_a_start_beside_a_store_that_is_filled_again_takes_nothing_back(
    store: Store, gateway: Gateway
) -> None:
    """The store was found empty; before the file is stored, another replica has written back what it remembers."""

    class Beside(Gateway):
        async def prepare(self, found: Examined, source: str) -> Read:
            if not await store.revision_entries():
                await store.add_revision(time=1.0, author="ops", etag=etag(TWO), document=TWO, origin="PUT")
                await store.add_revision(time=2.0, author="file", etag=etag(ONE), document=ONE, origin="old")
                await store.add_revision(time=3.0, author="ops", etag=etag(THREE), document=THREE)
            return await super().prepare(found, source)

    found = await Beside().revisions(store).start(ONE)
    assert (found.revision, found.document) == (3, THREE)
    assert len(await store.revision_entries()) == 3


async def test_an_edit_beside_a_newer_one_is_refused(store: Store, revisions: Revisions[Read]) -> None:
    seen = revisions.current.etag
    original = store.add_revision

    async def add_revision(**given: Any) -> Revision | None:
        if given["document"] == TWO:
            await original(time=1.0, author="ops", etag=etag(THREE), document=THREE)
        return await original(**given)

    store.add_revision = add_revision  # type: ignore[method-assign]
    assert await code(revisions.propose(TWO, "ops", seen)) == "precondition_failed"
    assert [entry.etag for entry in await store.revision_entries()] == [etag(THREE), etag(ONE)]
    assert (await revisions.propose(THREE, "ops", "*")).revision == 2


async def test_a_damaged_text_is_never_put_in_force(
    tmp_path: Path, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The file that has the same text takes its place; without it, the revision before."""
    store = SqliteStore(str(tmp_path / "store.db"))
    await store.open()
    first = gateway.revisions(store)
    await first.start(ONE)
    await first.propose(TWO, "ops", "*")
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE revisions SET document = ? WHERE revision = 2", (THREE,))
    connection.close()
    restarted = gateway.revisions(store)
    await restarted.start(ONE)
    assert (listening(restarted), restarted.current.revision) == ("1", 1)
    assert "the text of revision 2 in the store is damaged" in caplog.text
    assert restarted.problem is not None
    with pytest.raises(ConfigError, match="damaged"):
        await restarted.restore(2, "ops", "*")
    same = gateway.revisions(store)
    await same.start(TWO)
    assert (listening(same), same.current.revision) == ("2", 2)
    assert await first.refresh() is None
    await restarted.propose(THREE, "ops", "*")
    await first.refresh()
    assert (listening(first), first.current.revision) == ("3", 3)
    await store.close()
