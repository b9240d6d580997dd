"""What holds for all tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from gateway import build

# A busy machine may take any time for an example: slowness is measured in benchmarks, never in a test.
settings.register_profile("turnout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnout")


def pytest_configure() -> None:
    """What is tested must be what was written."""
    wrong = build.fault()
    if wrong:
        raise pytest.UsageError(wrong)


WITH_PROCESSES = ("e2e", "compat", "client", "deploy")
"""Directories whose tests start servers of their own: not for `make quick`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests begin first, so that parallel processes end together."""
    for item in items:
        if item.path.parent.name in WITH_PROCESSES:
            item.add_marker(pytest.mark.slow)
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
