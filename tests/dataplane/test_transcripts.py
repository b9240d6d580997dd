"""The state table of `gateway.dataplane.exchange.exchange` as transcripts: what comes in, and all that comes out."""

from __future__ import annotations

import pytest

from tests.dataplane.play import CHUNKED, GET, OK, Line, Play, perform
from tests.support.stage import Stage

TRANSCRIPTS: dict[str, list[Line]] = {
    # CONNECTING → WAITING → RELAYING → DONE
    "a-new-connection": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "a-resting-connection": [
        ("client GET /p/1", "a dialled"),
        ("a connects", "a< GET /p/1"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
        ("client GET /p/2", "a< GET /p/2"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "an-answer-in-pieces": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        ("a> HTTP/1.1 200 OK\r\ncontent-le",),
        ("a> ngth: 4\r\n\r\n", "client< 200 OK | content-length: 4"),
        ("a> ab", "client< ab"),
        ("a> cd", "client< cd", "recorded 200 good v1>v1"),
    ],
    "an-answer-in-chunks": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        (f"a> {CHUNKED}1\r\na\r\n", "client< 200 OK | transfer-encoding: chunked | 1\r\na\r\n"),
        ("a> 2\r\nbc\r\n3\r\ndef\r\n", "client< 5\r\nbcdef\r\n"),
        ("a> 1\r\ng\r\n0\r\n\r\n", "client< 1\r\ng\r\n0\r\n\r\n", "recorded 200 good v1>v1"),
    ],
    "an-answer-until-close": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        ("a> HTTP/1.1 200 OK\r\n\r\nab", "client< 200 OK | transfer-encoding: chunked | 2\r\nab\r\n"),
        ("a closes", "client< 0\r\n\r\n", "recorded 200 good v1>v1"),
    ],
    "a-body-in-pieces": [
        ("client> POST /p/x HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n", "a dialled"),
        ("client> ab",),
        ("a connects", "a< POST /p/x | content-length: 4 | ab"),
        ("client> cd", "a< cd"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "a-chunked-body-in-pieces": [
        ("client> POST /p/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n", "a dialled"),
        ("client> 2\r\nab\r\n",),
        ("a connects", "a< POST /p/x | transfer-encoding: chunked | 2\r\nab\r\n"),
        ("client> 2\r\nc", "a< 1\r\nc\r\n"),
        ("client> d\r\n", "a< 1\r\nd\r\n"),
        ("client> 0\r\nx: y\r\n",),
        ("client> \r\n", "a< 0\r\n\r\n"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "a-chunked-body-that-is-there-gets-a-length": [
        (
            "client> POST /p/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            "a dialled",
        ),
        ("a connects", "a< POST /p/x | content-length: 2 | ab"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "a-bad-chunk-after-the-head": [
        (
            "client> POST /p/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
            "a dialled",
        ),
        ("a connects", "a< POST /p/x | transfer-encoding: chunked | 2\r\nab\r\n"),
        (
            "client> xyz\r\n",
            "a cut",
            "client< 400 Bad Request | connection: close | bad_request",
            "recorded 400 good v1>-",
            "client ended",
        ),
    ],
    # Interim answers
    "interim-answers": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        ("a> HTTP/1.1 100 Continue\r\n\r\n",),
        ("a> HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", "client< 103 Early Hints | link: x"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    # CONNECTING: refused, too long, with and without somebody else
    "refused": [
        ("client GET /p/x", "a dialled"),
        ("a refuses", "client< 502 Bad Gateway | backend_connect", "recorded 502 backend_connect v1>-"),
    ],
    "refused-with-fallback": [
        ("client POST /fall/x abc", "a dialled"),
        ("a refuses", "b dialled"),
        ("b connects", "b< POST /fall/x | content-length: 3 | abc"),
        (f"b> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 backend_connect v1>v2"),
    ],
    "refused-twice": [
        ("client GET /fall/x", "a dialled"),
        ("a refuses", "b dialled"),
        ("b refuses", "client< 502 Bad Gateway | backend_connect", "recorded 502 backend_connect v1>-"),
    ],
    "refused-with-a-fixed-answer": [
        ("client GET /fixed/x", "a dialled"),
        ("a refuses", "client< 200 OK | content-length: 5 | fixed", "recorded 200 backend_connect v1>-"),
    ],
    "connecting-too-long": [
        ("client GET /p/x", "a dialled"),
        ("0.9 s",),
        (
            "0.2 s",
            "a dial cancelled",
            "client< 504 Gateway Timeout | backend_connect_timeout",
            "recorded 504 backend_connect_timeout v1>-",
        ),
    ],
    "connecting-too-long-with-fallback": [
        ("client GET /fall/x", "a dialled"),
        ("1.1 s", "a dial cancelled", "b dialled"),
        ("b connects", "b< GET /fall/x"),
        (f"b> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 backend_connect_timeout v1>v2"),
    ],
    # BACKOFF: what was never sent is tried again, even a POST
    "refused-then-again": [
        ("client POST /replay/x abc", "a dialled"),
        ("a refuses",),
        ("0.4 s",),
        ("0.2 s", "a dialled"),
        ("a connects", "a< POST /replay/x | content-length: 3 | abc"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "closed-then-again-where-it-may": [
        ("client POST /replay/x abc", "a dialled"),
        ("a connects", "a< POST /replay/x | content-length: 3 | abc"),
        ("a closes",),
        ("0.6 s", "a dialled"),
        ("a connects", "a< POST /replay/x | content-length: 3 | abc"),
        ("a closes", "client< 502 Bad Gateway | backend_reset", "recorded 502 backend_reset v1>-"),
    ],
    # WAITING: closed, silent, garbage
    "closed-before-an-answer": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        ("a closes", "client< 502 Bad Gateway | backend_reset", "recorded 502 backend_reset v1>-"),
    ],
    "closed-before-an-answer-with-fallback": [
        ("client POST /fall/x abc", "a dialled"),
        ("a connects", "a< POST /fall/x | content-length: 3 | abc"),
        ("a closes", "b dialled"),
        ("b connects", "b< POST /fall/x | content-length: 3 | abc"),
        (f"b> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 backend_reset v1>v2"),
    ],
    "no-answer-in-time": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        (
            "2.1 s",
            "a cut",
            "client< 504 Gateway Timeout | backend_first_byte_timeout",
            "recorded 504 backend_first_byte_timeout v1>-",
        ),
    ],
    "a-trickling-head-moves-no-deadline": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        ("1.5 s",),
        ("a> HTTP/1.1 200 OK\r\n",),
        (
            "0.7 s",
            "a cut",
            "client< 504 Gateway Timeout | backend_first_byte_timeout",
            "recorded 504 backend_first_byte_timeout v1>-",
        ),
    ],
    "garbage": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        (
            "a> garbage\r\n",
            "a cut",
            "client< 502 Bad Gateway | backend_protocol",
            "recorded 502 backend_protocol v1>-",
        ),
    ],
    "an-error-status-goes-to-the-fallback": [
        ("client GET /fall/x", "a dialled"),
        ("a connects", "a< GET /fall/x"),
        ("a> HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\n", "b dialled"),
        ("a> busy",),
        ("b connects", "b< GET /fall/x"),
        (f"b> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 backend_status v1>v2"),
    ],
    "an-error-status-without-one-is-passed-on": [
        ("client GET /p/x", "a dialled"),
        ("a connects", "a< GET /p/x"),
        (
            "a> HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",
            "client< 503 Service Unavailable | content-length: 4 | busy",
            "recorded 503 backend_status v1>v1",
        ),
    ],
    # A resting connection that dies as it is used: nobody's fault
    "the-idle-close-race": [
        ("client GET /p/1", "a dialled"),
        ("a connects", "a< GET /p/1"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
        ("client GET /p/2", "a< GET /p/2"),
        ("a closes", "a dialled"),
        ("a connects", "a< GET /p/2"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "the-idle-close-race-with-a-post": [
        ("client GET /p/1", "a dialled"),
        ("a connects", "a< GET /p/1"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
        ("client POST /p/2 abc", "a< POST /p/2 | content-length: 3 | abc"),
        ("a closes", "client< 502 Bad Gateway | backend_reset", "recorded 502 backend_reset v1>-"),
    ],
    # RELAYING: broken off, stalled
    "broken-off": [
        ("client GET /fall/x", "a dialled"),
        ("a connects", "a< GET /fall/x"),
        (f"a> {CHUNKED}1\r\na\r\n", "client< 200 OK | transfer-encoding: chunked | 1\r\na\r\n"),
        ("a closes", "recorded 200 backend_truncated v1>v1", "client cut"),
    ],
    "stalled": [
        ("client GET /fall/x", "a dialled"),
        ("a connects", "a< GET /fall/x"),
        (f"a> {CHUNKED}1\r\na\r\n", "client< 200 OK | transfer-encoding: chunked | 1\r\na\r\n"),
        ("2.9 s",),
        ("a> 1\r\nb\r\n", "client< 1\r\nb\r\n"),
        ("2.9 s",),
        ("0.2 s", "a cut", "recorded 200 backend_idle_timeout v1>v1", "client cut"),
    ],
    # QUEUED
    "a-place-becomes-free": [
        ("client GET /narrow/1", "n dialled"),
        ("second GET /narrow/2",),
        (
            "third GET /narrow/3",
            "third< 503 Service Unavailable | retry-after: 1 | backend_overloaded",
            "recorded 503 backend_overloaded v1>-",
        ),
        ("n connects", "n< GET /narrow/1"),
        (
            f"n> {OK}",
            "client< 200 OK | content-length: 2 | ok",
            "n< GET /narrow/2",
            "recorded 200 good v1>v1",
        ),
        (f"n> {OK}", "second< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "a-place-becomes-free-by-a-failure": [
        ("client GET /narrow/1", "n dialled"),
        ("n connects", "n< GET /narrow/1"),
        ("1.0 s",),
        ("second GET /narrow/2",),
        (
            "1.1 s",
            "n cut",
            "n dialled",
            "client< 504 Gateway Timeout | backend_first_byte_timeout",
            "recorded 504 backend_first_byte_timeout v1>-",
        ),
        ("n connects", "n< GET /narrow/2"),
        (f"n> {OK}", "second< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "no-place-in-time": [
        ("client GET /narrow/1", "n dialled"),
        ("n connects", "n< GET /narrow/1"),
        ("second GET /narrow/2",),
        ("1.0 s",),
        (f"n> {CHUNKED}1\r\na\r\n", "client< 200 OK | transfer-encoding: chunked | 1\r\na\r\n"),
        (
            "1.1 s",
            "second< 503 Service Unavailable | retry-after: 1 | backend_overloaded",
            "recorded 503 backend_overloaded v1>-",
        ),
        ("n> 0\r\n\r\n", "client< 0\r\n\r\n", "recorded 200 good v1>v1"),
    ],
    # READING: the decision waits for the body
    "a-decision-that-needs-the-body": [
        ("client> POST /body/x HTTP/1.1\r\nhost: h\r\ncontent-length: 13\r\n\r\n",),
        ('client> {"user":',),
        ('client>  "u"}', "a dialled"),
        ("a connects", 'a< POST /body/x | content-length: 13 | {"user": "u"}'),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "a-body-that-never-ends": [
        ("client> POST /body/x HTTP/1.1\r\nhost: h\r\ncontent-length: 14\r\n\r\n",),
        ("4.1 s", "client< 408 Request Timeout | connection: close | request_timeout", "client ended"),
    ],
    # Several requests ahead
    "a-pipeline": [
        ("client> " + GET.format("/p/1") + GET.format("/p/2"), "a dialled"),
        ("a connects", "a< GET /p/1"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1", "a< GET /p/2"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    "a-pipeline-with-an-error-behind": [
        ("client> " + GET.format("/p/1") + "NONSENSE\r\n\r\n", "a dialled"),
        ("a connects", "a< GET /p/1"),
        (
            f"a> {OK}",
            "client< 200 OK | content-length: 2 | ok",
            "recorded 200 good v1>v1",
            "client< 400 Bad Request | connection: close | bad_request",
            "client ended",
        ),
    ],
    "a-continue": [
        (
            "client> POST /p/x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
            "client< 100 Continue",
            "a dialled",
        ),
        ("client> ab",),
        ("a connects", "a< POST /p/x | content-length: 2 | ab"),
        (f"a> {OK}", "client< 200 OK | content-length: 2 | ok", "recorded 200 good v1>v1"),
    ],
    # The client's own time
    "nothing-sent": [("4.9 s",), ("1.2 s", "client closed")],
    "half-a-head": [
        ("client> GET /p",),
        ("4.9 s",),
        ("1.2 s", "client< 408 Request Timeout | connection: close | request_timeout", "client ended"),
        ("2.1 s", "client cut"),
    ],
    "idle-after-an-answer": [
        ("client GET /fixed/x", "a dialled"),
        ("a refuses", "client< 200 OK | content-length: 5 | fixed", "recorded 200 backend_connect v1>-"),
        ("20.0 s",),
        ("2.1 s", "client closed"),
    ],
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(stage: Stage, name: str) -> None:
    perform(stage, TRANSCRIPTS[name])


def test_a_request_that_gets_its_place_as_its_wait_ends_goes_on(stage: Stage) -> None:
    play = Play(stage)
    for number in range(24):  # which of the two a tick sees first is chance
        waiting = f"waiting{number}"
        play.do(f"hanging{number} GET /narrow/1")
        if "n dialled" in stage.take():
            play.do("n connects")
        play.do(f"{waiting} GET /narrow/2")
        stage.wait(2.1)
        log = " ".join(stage.take())
        if "n dialled" in log:
            play.do("n connects")
            play.do(f"n> {OK}")
            assert f"{waiting}< 200 OK" in " ".join(stage.take())
        else:
            assert f"{waiting}< 503 Service Unavailable | retry-after: 1 | backend_overloaded" in log
        assert "backend_connect_timeout" not in log
