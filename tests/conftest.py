"""What holds for all tests."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Generator
from functools import cache
from importlib import import_module
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from gateway import build
from gateway.state.sqlite import SqliteStore

# A busy machine may take any time for an example: slowness is measured in benchmarks, never in a test.
settings.register_profile("turnout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnout")

# Each httpx.get() and each client would read all public authorities: 30 ms of CPU time, also when it polls a server.
# The SDKs of OpenAI and Anthropic have httpx2.
for _transports in map(import_module, ("httpx._transports.default", "httpx2._transports.default")):
    vars(_transports)["create_ssl_context"] = cache(_transports.create_ssl_context)
# Where a test does not say how long it waits, a busy machine may take more than the 5 s of httpx.
for _limit in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _limit, 60.0)

WITH_PROCESSES = ("e2e", "compat", "client", "deploy")
"""Directories whose tests start servers of their own."""
NOT_QUICK = frozenset((*WITH_PROCESSES, "backends", "benchmarks", "browser", "soak"))
"""Directories that `--quick` does not even import."""
NOT_QUICK_MARKS = frozenset(("slow", "long", "alone", "soak", "browser"))
LONGEST = "test_compiled.py"
"""It runs a suite of its own."""
FEW_EXAMPLES = 15
"""Examples of a property test with `--few-examples` or `--quick`."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Empty and open."""
    made = SqliteStore(tmp_path / "store.db")
    await made.open()
    yield made
    await made.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out what takes longer than a moment, and try a few examples of each property",
    )
    parser.addoption("--few-examples", action="store_true", help="try a few examples of each property")


def pytest_configure() -> None:
    """What is tested must be what was written."""
    wrong = build.fault()
    if wrong:
        raise pytest.UsageError(wrong)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    tests = Path(__file__).parent
    if config.getoption("quick") and collection_path.parent == tests and collection_path.name in NOT_QUICK:
        return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: Python's garbage collector looks through it neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        # With Python's own 700, collections take part of the time of tests that make many objects.
        gc.set_threshold(10_000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with long tests begin first, so that parallel processes end together."""
    for item in items:
        if item.path.parent.name in WITH_PROCESSES:
            item.add_marker(pytest.mark.slow)
    if config.getoption("quick"):
        _leave_quick_ones(config, items)
    if config.getoption("quick") or config.getoption("few_examples"):
        _try_few_examples(items)
    soaks, long = ({item.path for item in items if item.get_closest_marker(m)} for m in ("soak", "slow"))
    items.sort(key=lambda item: (item.path.name != LONGEST, item.path not in soaks, item.path not in long))


def _leave_quick_ones(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if NOT_QUICK_MARKS & {mark.name for mark in item.iter_markers()}]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _try_few_examples(items: list[pytest.Item]) -> None:
    for test in {getattr(item, "obj", None) for item in items}:
        given = getattr(test, "_hypothesis_internal_use_settings", None)
        if given is not None and test is not None:
            few = min(given.max_examples, FEW_EXAMPLES)
            test._hypothesis_internal_use_settings = settings(given, max_examples=few)
