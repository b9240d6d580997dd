"""To import this is to import all tests, as pytest collects them; the nursery of `tests.support.worker` does."""

import os
import threading

import pytest

pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *os.environ["TURNOUT_COLLECT"].split()])
assert threading.active_count() == 1, "a test file starts a thread when it is imported: let a fixture do that"
