"""Transcripts: lines of (what happens, what comes out of it, in order).

Time stands still between lines but where one says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.stage import Stage, Transport

GET = "GET {} HTTP/1.1\r\nhost: h\r\n\r\n"
OK = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Line = tuple[str, ...]


class Play:
    """Performs the lines of a transcript."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.people: dict[str, Transport] = {}

    def do(self, line: str) -> None:
        who, _, what = line.partition(" ")
        if what == "s":
            self.stage.wait(float(who))
        elif who.endswith(">"):
            self.person(who[:-1]).give(what.encode("latin-1"))
        elif what == "connects":
            self.people[who] = self.stage.connected()
            assert self.people[who].name == who
        elif what == "refuses":
            self.stage.refused()
        elif what == "closes":
            self.people[who].leave()
        elif what == "sticks":
            self.people[who].stuck = True
        elif what == "takes":
            self.people[who].take()
        elif what == "rests":
            assert not self.people[who].reading
        elif what == "drains":  # uvicorn tells each connection so when the process is to end
            self.people[who].protocol.shutdown()
        elif what == "ends":
            self.people[who].protocol.end()
        else:
            self.request(who, *what.split(" "))
        if what != "s":
            self.stage.turn()

    def request(self, who: str, method: str, target: str, body: str = "") -> None:
        length = f"content-length: {len(body)}\r\n" if body else ""
        self.person(who).give(f"{method} {target} HTTP/1.1\r\nhost: h\r\n{length}\r\n{body}".encode())

    def person(self, name: str) -> Transport:
        if name not in self.people:
            self.people[name] = self.stage.client(name)
        return self.people[name]


def perform(stage: Stage, lines: Iterable[Line]) -> None:
    """Asserts that just this comes out, and that nothing is left over."""
    play = Play(stage)
    play.person("client")
    for line, *expected in lines:
        play.do(line)
        assert stage.take() == expected, line
    stage.clean()
