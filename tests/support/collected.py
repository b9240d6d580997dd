"""To import this is to import all tests, as pytest collects them; the nursery of `tests.support.worker` does."""

import os
import shlex
import threading

import pytest

options = shlex.split(os.environ["TURNOUT_COLLECT"])
collected = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *options])
assert collected != pytest.ExitCode.USAGE_ERROR, f"pytest does not understand {options}"
assert threading.active_count() == 1, "a test file starts a thread when it is imported: let a fixture do that"
