"""httpx and a raw client side by side, through the gateway and past it: all three see the same answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

import httpx
import pytest

from tests.support.backend import chunked, ok
from tests.wire.rig import Rig

H = b"host: gateway.test\r\n"
OURS = {
    "x-decision-id", "x-variant", "x-request-id", "server-timing", "transfer-encoding", "content-length",
    "connection",
}  # fmt: skip


def segments(data: bytes, dice: random.Random) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        size = dice.choice((1, 2, 3, 10, 100, 1000, 5000, 60_000))
        yield data[place : place + size]
        place += size


def some_body(dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice((0, 1, 2, 100, 4095, 4096, 4097, 65_536, 300_000)))


def some_answer(dice: random.Random) -> bytes:
    body = some_body(dice)
    fields = [b"x-field-%d: %d" % (n, dice.randrange(1000)) for n in range(dice.randrange(5))]
    fields += [b"set-cookie: a=%d" % dice.randrange(10) for _ in range(dice.randrange(3))]
    status = dice.choice((b"200 OK", b"201 Created", b"404 Not Found", b"500 Oops", b"302 Found"))
    if dice.random() < 0.5:
        return ok(body, *fields, status=status)
    lines = b"".join(line + b"\r\n" for line in fields)
    pieces = list(segments(body, dice))
    if len(pieces) > 200:
        pieces = [body]
    return chunked(*pieces, lines=lines).replace(b"200 OK", status, 1)


def visible(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in fields if name.lower() not in OURS]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_httpx_and_a_raw_client_agree_with_each_other_and_with_the_backend(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    with httpx.Client(trust_env=False) as through, httpx.Client(trust_env=False) as past, rig.client() as raw:
        for turn in range(5):
            body, answer = some_body(dice), some_answer(dice)
            method = dice.choice(("GET", "POST", "PUT", "DELETE"))
            target = f"/p/{seed}/{turn}?q=%20{turn}"
            whole = dice.random() < 0.5
            content = body if whole else iter([body[:10], body[10:]])
            pieces = list(segments(answer, dice))
            for _ in range(3):
                rig.a.plans.append(pieces if len(pieces) < 300 else [answer])

            direct = past.request(method, f"http://127.0.0.1:{rig.a.port}{target}", content=body)
            ours = through.request(method, f"http://127.0.0.1:{rig.port}{target}", content=content)
            if whole:
                head = b"%b %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (
                    method.encode(),
                    target.encode(),
                    H,
                    len(body),
                )
                framed = head + body
            else:
                head = b"%b %b HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n" % (
                    method.encode(),
                    target.encode(),
                    H,
                )
                chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in segments(body, dice)]
                framed = head + b"".join(chunks) + b"0\r\n\r\n"
            found = list(segments(framed, dice))
            raw.send(*(found if len(found) < 300 else [framed]))
            seen = raw.answer(method.encode())

            assert direct.status_code == ours.status_code == seen.status
            assert direct.content == ours.content == seen.body
            expected = visible(direct.headers.multi_items())
            assert visible(ours.headers.multi_items()) == expected
            assert visible([(k.decode(), v.decode()) for k, v in seen.fields]) == expected
            assert [r.body for r in rig.requests[-3:]] == [body] * 3
            assert [r.target for r in rig.requests[-3:]] == [target.encode()] * 3
