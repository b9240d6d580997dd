"""Models that take long to load, or never end: the others do not wait for them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from backends import registry as registry_module
from backends import repository as repository_module
from backends.config import ModelConfig
from backends.ensemble import EnsembleServed
from backends.errors import LoadError, NotFound, ServerError, Unavailable
from backends.mlflow import MlflowRegistry, MlflowSource, Wanted, first_sync, follow
from backends.owner.process import DEVICE_PROCESSES
from backends.pages import Pages
from backends.registry import Registry
from backends.served import Served
from backends.threads import Overrun, in_daemon
from tests.backends.repositories import ECHO, write_model
from tests.support.http_server import Handler, HttpServer

X, Y = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}
SLOW = """
import pathlib, time

class Model:
    def __init__(self, gate):
        while not pathlib.Path(gate).exists():
            time.sleep(0.01)

    def __call__(self, x):
        return x
"""
LIMIT_S = 30
# A load may be interrupted while it reads the model's file, which the collector then closes.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


class Repository:
    """A registry over ``a_slow``, which loads once `gate` exists, and ``quick``."""

    def __init__(self, folder: Path) -> None:
        self.gate = folder / "gate"
        self.root = folder / "models"
        write_model(self.root, "a_slow", SLOW, X, Y, parameters={"gate": str(self.gate)})
        write_model(self.root, "quick", ECHO, X, Y)
        self.registry = Registry(self.root, "cpu", kinds={"ensemble": EnsembleServed})
        self.pages = Pages(self.registry, control=True)

    def serves(self, name: str) -> bool:
        try:
            self.registry.find(name)
        except (NotFound, Unavailable):
            return False
        return True

    def index(self) -> dict[str, tuple[str, str]]:
        rows = json.loads(self.pages.index(b"").body)
        return {row["name"]: (row["state"], row["reason"]) for row in rows}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(registry_module, "SLOW_LOAD_S", 0.05)
    return Repository(tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_model_that_hangs_while_it_loads_is_named_and_holds_up_no_other(
    repository: Repository,
) -> None:
    registry = repository.registry
    loading = asyncio.create_task(registry.load_all())
    await until(lambda: repository.serves("quick"))
    assert repository.pages.unready(False).startswith(
        "the models are still being loaded; a_slow version 1 (loading for "
    )
    index = repository.index()
    assert index["quick"] == ("READY", "")
    assert index["a_slow"][0] == "LOADING"
    assert index["a_slow"][1].startswith("loading for ")
    with pytest.raises(Unavailable, match=r"'a_slow' is not loaded yet \(version 1 loading for"):
        registry.find("a_slow")
    with pytest.raises(NotFound):
        registry.find("absent")
    await asyncio.wait_for(registry.load("quick"), LIMIT_S)  # the API does not wait for it, either

    await asyncio.wait_for(registry.unload("a_slow"), LIMIT_S)
    await asyncio.wait_for(loading, LIMIT_S)
    assert repository.pages.unready(False) == ""
    assert repository.index()["a_slow"] == ("UNAVAILABLE", "unloaded")
    await until(lambda: "a_slow version 1" not in {thread.name for thread in threading.enumerate()})
    repository.gate.touch()
    await registry.load("a_slow")
    assert repository.index()["a_slow"] == ("READY", "")
    await registry.close()


async def test_a_version_that_hangs_while_it_loads_holds_up_no_other_of_its_model(
    repository: Repository,
) -> None:
    """Versions of one model were loaded in sequence, and served when the last one was done."""
    registry = repository.registry
    policy: dict[str, dict[str, int]] = {"all": {}}
    gate = {"gate": str(repository.gate)}
    fast = SLOW.replace("while not", "while False and not")
    for version, code in ((1, fast), (2, SLOW), (3, fast)):
        write_model(
            repository.root, "a_slow", code, X, Y, version=version, parameters=gate, version_policy=policy
        )
    loading = asyncio.create_task(registry.load_all())
    await until(
        lambda: registry.ready("a_slow") is True and list(registry.models["a_slow"].versions) == ["1", "3"]
    )
    assert registry.find("a_slow").version == "3"
    with pytest.raises(ServerError, match="a_slow"):
        registry.find("a_slow", "2")
    assert registry.progress()[0].startswith("a_slow version 2 (loading for ")
    repository.gate.touch()
    await asyncio.wait_for(loading, LIMIT_S)
    assert list(registry.models["a_slow"].versions) == ["1", "2", "3"]

    # A changed version 2 hangs: 3 is replaced, the old 2 serves until the new one can.
    old = registry.models["a_slow"].versions
    repository.gate.unlink()
    for version, code in ((2, SLOW + "# new"), (3, fast + "# new")):
        write_model(
            repository.root, "a_slow", code, X, Y, version=version, parameters=gate, version_policy=policy
        )
    load = asyncio.create_task(registry.load("a_slow"))
    await until(lambda: registry.find("a_slow", "3") is not old["3"])
    assert [registry.find("a_slow", version) is old[version] for version in "12"] == [True, True]
    repository.gate.touch()
    await asyncio.wait_for(load, LIMIT_S)
    assert registry.find("a_slow", "2") is not old["2"]
    assert all(old[version].queue.closed for version in "23"), "what was replaced has ended"
    await registry.close()


async def test_an_unload_ends_versions_that_are_served_and_those_that_hang(repository: Repository) -> None:
    gate = {"gate": str(repository.gate)}
    fast = SLOW.replace("while not", "while False and not")
    write_model(repository.root, "a_slow", fast, X, Y, version=2, parameters=gate, version_policy={"all": {}})
    registry = repository.registry
    loading = asyncio.create_task(registry.load_all())
    await until(lambda: registry.ready("a_slow") is True)
    served = registry.find("a_slow")
    await asyncio.wait_for(registry.unload("a_slow"), LIMIT_S)
    await asyncio.wait_for(loading, LIMIT_S)
    assert served.queue.closed
    assert repository.index()["a_slow"] == ("UNAVAILABLE", "unloaded")
    await until(lambda: "a_slow version 1" not in {thread.name for thread in threading.enumerate()})
    await registry.close()


async def test_an_ensemble_waits_for_a_slow_step_and_nothing_else_does(repository: Repository) -> None:
    step = {"model_name": "a_slow", "input_map": {"x": "x"}, "output_map": {"y": "y"}}
    write_model(
        repository.root, "a_chain", None, X, Y, platform="ensemble", ensemble_scheduling={"step": [step]}
    )
    registry = repository.registry
    loading = asyncio.create_task(registry.load_all())
    await until(lambda: repository.serves("quick"))
    assert repository.index()["a_chain"] == ("LOADING", "waiting for other models")
    repository.gate.touch()
    await asyncio.wait_for(loading, LIMIT_S)
    assert repository.serves("a_chain")
    await registry.close()


async def test_the_device_process_of_a_load_that_is_given_up_ends(repository: Repository) -> None:
    write_model(
        repository.root, "a_slow", SLOW, X, Y, parameters={"gate": str(repository.gate)}, executor="process"
    )
    registry = repository.registry
    loading = asyncio.create_task(registry.load_all())
    await until(lambda: repository.serves("quick"))
    (process,) = DEVICE_PROCESSES._processes.values()
    await asyncio.wait_for(registry.unload("a_slow"), LIMIT_S)
    await asyncio.wait_for(loading, LIMIT_S)
    await until(lambda: process._process.poll() is not None)
    assert not DEVICE_PROCESSES._processes
    await registry.close()


async def test_a_load_that_is_given_up_says_so(repository: Repository) -> None:
    registry = repository.registry
    loading = asyncio.create_task(registry.load("a_slow"))
    await until(lambda: bool(registry.progress()))
    await registry.close()
    with pytest.raises(LoadError, match="unloaded while it was loaded"):
        await loading
    with pytest.raises(ServerError):
        registry.find("a_slow")


async def test_an_unload_gives_up_the_loads_that_wait_too(repository: Repository) -> None:
    registry = repository.registry
    loads = [asyncio.create_task(registry.load("a_slow")) for _ in range(3)]

    def waiting() -> int:
        model = registry.models.get("a_slow")
        return 0 if model is None else len(model.changing._waiters or ())

    await until(lambda: waiting() == 2)
    await asyncio.wait_for(registry.unload("a_slow"), LIMIT_S)
    for load in loads:
        with pytest.raises(LoadError, match="unloaded while it was loaded"):
            await load
    repository.gate.touch()
    await registry.load("a_slow")
    assert repository.serves("a_slow")
    await registry.close()


async def test_a_call_that_is_cancelled_before_its_thread_runs_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gate, threads = threading.Event(), []

    class Slow(threading.Thread):
        def run(self) -> None:
            gate.wait(LIMIT_S)
            super().run()

        def start(self) -> None:
            threads.append(self)
            super().start()

    monkeypatch.setattr(threading, "Thread", Slow)
    caller = asyncio.create_task(in_daemon("late", lambda: pytest.fail("it ran"), lambda result: None))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    threads[0].join(LIMIT_S)
    assert "Traceback" not in capfd.readouterr().err


async def test_a_result_that_comes_too_late_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate, discarded = threading.Event(), threading.Event(), threading.Event()
    unhandled: list[object] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)

    def native_wait() -> bool:
        # An interruption reaches Python code only after the wait, as it would a library's.
        try:
            begun.set()
            return gate.wait(LIMIT_S)
        except Overrun:
            return True

    def discard(result: bool) -> None:
        discarded.set()
        raise Overrun  # another interruption, which comes late

    caller = asyncio.create_task(in_daemon("late", native_wait, discard))
    await asyncio.to_thread(begun.wait, LIMIT_S)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    assert await asyncio.to_thread(discarded.wait, LIMIT_S)
    await until(lambda: not any(thread.name == "late" for thread in threading.enumerate()))
    assert not unhandled


class HalfAnMlflow(MlflowRegistry):
    """Has version 1 of each model; ``first`` can't be copied while `full`."""

    full = True
    short: tuple[str, ...] = ()
    """The calls for which no thread can be started once."""

    def sync(self) -> tuple[list[str], dict[str, str]]:
        self._need_thread("sync")
        return super().sync()

    def forget_old(self, name: str) -> None:
        self._need_thread("forget_old")
        super().forget_old(name)

    def _need_thread(self, call: str) -> None:
        if call in self.short:
            self.short = tuple(one for one in self.short if one != call)
            raise RuntimeError("can't start new thread")

    def _version(self, wanted: Wanted) -> int:
        return 1

    def _bring(self, name: str, versions: list[int]) -> None:
        if name == "first" and self.full:
            raise OSError(28, "No space left on device")
        write_model(self._folder, name, ECHO, X, Y)


async def test_a_model_of_mlflow_is_loaded_though_another_one_cannot_be_copied(tmp_path: Path) -> None:
    wanted = (Wanted("first", version=1), Wanted("second", version=1))
    mlflow = HalfAnMlflow(MlflowSource("http://127.0.0.1:1", wanted, 0.02), tmp_path)
    registry = Registry(tmp_path, "cpu")
    await registry.load_all(await asyncio.wait_for(first_sync(mlflow, 0.02), LIMIT_S))
    assert registry.find("second").version == "1"
    assert registry.faults == ["MLflow: first: OSError: [Errno 28] No space left on device"]
    mlflow.short = ("sync", "forget_old")
    following = asyncio.create_task(follow(mlflow, registry, 0.02))
    mlflow.full = False
    await until(lambda: registry.ready("first") is True and not mlflow.short)
    assert registry.faults == []
    assert not following.done()
    following.cancel()
    await asyncio.wait([following])
    await registry.close()
    mlflow.close()


class Moving(MlflowRegistry):
    """Has version ``number`` of each model, which can be loaded once the file ``ok`` with that number exists."""

    number = 1

    def _version(self, wanted: Wanted) -> int:
        return self.number

    def _bring(self, name: str, versions: list[int]) -> None:
        needs = str(self._folder / f"ok{self.number}")
        write_model(self._folder, name, f"open({needs!r}).close()\n{ECHO}", X, Y, version=self.number)


async def test_a_version_of_mlflow_that_cannot_be_loaded_is_tried_again(tmp_path: Path) -> None:
    """It was not, until its alias moved: what was short (memory, a GPU) might be there a moment later."""
    mlflow = Moving(MlflowSource("http://127.0.0.1:1", (Wanted("m", alias="best"),), 0.02), tmp_path)
    registry = Registry(tmp_path, "cpu")
    await registry.load_all(await asyncio.wait_for(first_sync(mlflow, 0.02), LIMIT_S))
    assert registry.ready("m") is False

    def failed() -> bool:
        return mlflow.number in mlflow._chosen["m"] and bool(registry.faults)

    def serves() -> bool:
        return registry.ready("m") is True and registry.find("m").version == str(mlflow.number)

    following = asyncio.create_task(follow(mlflow, registry, 0.02))
    for number in (1, 2):
        mlflow.number = number
        await until(failed)
        (tmp_path / f"ok{number}").touch()
        await until(serves)
    assert registry.faults == []

    def tries() -> bool:
        return any(getattr(t.get_coro(), "__name__", "") == "_take_over" for t in asyncio.all_tasks())

    mlflow.number = 3
    await until(failed)
    assert tries()
    await registry.unload("m")
    (tmp_path / "ok3").touch()
    await until(lambda: not tries())
    assert not serves(), "it was loaded again after it had been unloaded"
    following.cancel()
    await asyncio.wait([following])
    await registry.close()
    mlflow.close()


class Artifacts(Handler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.respond(unquote(path).encode() if not query else {"files": [{"path": "folder/a#1 50%41?.bin"}]})


def test_artifacts_of_mlflow_may_have_any_name(tmp_path: Path) -> None:
    """What looked like a query or a fragment was left out of the request: the file could not be found."""
    with HttpServer(Artifacts) as server:
        mlflow = MlflowRegistry(MlflowSource(server.url, (), 1.0), tmp_path)
        mlflow._fetch("1/folder", tmp_path, 1)
        mlflow.close()
    (copied,) = tmp_path.iterdir()
    assert copied.name == "a#1 50%41?.bin"
    assert copied.read_text().endswith("/artifacts/1/folder/a#1 50%41?.bin")


class Unfinished(Served):
    async def start(self, device: str, threads: int) -> None:
        raise KeyError("a fault of ours")


async def test_a_fault_of_one_model_is_no_fault_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(config: ModelConfig, folder: Path) -> tuple[object, ...]:
        if config.name == "vanishing":
            raise FileNotFoundError(2, "No such file or directory", str(folder / "model.py"))
        return (config, folder)

    monkeypatch.setattr(repository_module, "_fingerprint", fingerprint)
    for name in ("broken", "vanishing", "whole"):
        write_model(
            tmp_path, name, ECHO, X, Y, platform="torchscript" if name == "broken" else "pytorch_module"
        )
    registry = Registry(tmp_path, "cpu", kinds={"torchscript": Unfinished})
    await registry.load_all()
    assert registry.find("whole").version == "1"
    broken, vanishing = registry.faults
    assert broken == "KeyError: 'a fault of ours'"
    assert vanishing.endswith("vanishing/1/model.py can't be read (No such file or directory)")
    with pytest.raises(NotFound):
        await registry.load("a" * 300)  # longer than a file's name may be
    await registry.close()
