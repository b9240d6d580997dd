"""What a process does with its limits before it listens."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator

import pytest

from gateway.serving import raise_open_files


@pytest.fixture
def soft() -> Iterator[int]:
    """A soft limit on open files below the hard one, put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(before[0], 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, before[1]))
    yield lowered
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_on_open_files_is_raised_as_far_as_it_goes(soft: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_open_files(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert hard > soft


def test_a_limit_that_is_too_low_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    with caplog.at_level(logging.WARNING, "turnout"):
        raise_open_files(512)
        assert caplog.messages == []
        raise_open_files(513)
    (said,) = caplog.messages
    assert "at most 1024 files" in said
    assert "'limits.connections: 513'" in said
