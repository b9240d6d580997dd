"""A process of pytest-xdist that is forked when the tests and all that they need are imported.

Each of the processes would compute for seconds until it has imported them. To pytest-xdist this is a Python:
``--tx "6*popen//python=python -m tests.support.worker OPTION ..."``, with the options of pytest that say which
tests are collected; what execnet adds begins with ``-u``.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys

from tests.support.forked import Forked


def main() -> int:
    if "-u" not in sys.argv:  # forked
        exec(eval(sys.stdin.readline()), globals())  # what execnet has any Python do that it starts
        return 0
    os.environ["TURNOUT_COLLECT"] = shlex.join(sys.argv[1 : sys.argv.index("-u")])
    os.environ["PYTEST_XDIST_TESTRUNUID"] = f"of-{os.getppid()}"  # until xdist says it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = Forked("tests.support.worker")
    for stream in (0, 1):  # that the process has ended is seen by their ends
        os.close(stream)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
