"""Flow control on a socket of the real gateway, in both forms of it."""

from __future__ import annotations

from tests.http2.client import Client
from tests.http2.raw import (
    DATA,
    ECHO,
    GOOD,
    HELLO,
    PADDED,
    PING,
    SETTINGS,
    WINDOW_UPDATE,
    data,
    frame,
    headers,
    settings,
    word,
)
from tests.support.backend import ok
from tests.wire.rig import Rig

RIG = {"routes": ECHO}
INITIAL_WINDOW = 4


def grant(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, word(size))


def received(client: Client, *streams: int) -> list[int]:
    return [len(client.reader.replies[stream].body) for stream in streams]


def settle(client: Client) -> None:
    """Until the gateway has read what was sent, and sent what it may."""
    before = client.reader.pings
    client.send(frame(PING, 0, 0, bytes(8)))
    client.read_until(lambda reader: reader.pings > before)


def test_a_window_that_shrinks_below_zero_grows_from_there(rig: Rig) -> None:
    rig.a.plans.append([ok(bytes(300))])
    with Client(rig.port, hello=HELLO + settings((INITIAL_WINDOW, 100))) as client:
        client.send(headers(GOOD))
        client.read_until(lambda reader: 1 in reader.replies and len(reader.replies[1].body) == 100)
        client.send(settings((INITIAL_WINDOW, 10)) + grant(1, 90))  # 90 sent more than now permitted
        settle(client)
        assert received(client, 1) == [100]
        client.send(grant(1, 1))
        client.read_until(lambda reader: len(reader.replies[1].body) == 101)
        client.send(settings((INITIAL_WINDOW, 1000)))
        assert client.reply(1).body == bytes(300)


def test_streams_share_the_window_of_their_connection(rig: Rig) -> None:
    large = b"x" * 60_000
    rig.a.plans.extend([[ok(large)]] * 3)
    with Client(rig.port, hello=HELLO + settings((INITIAL_WINDOW, 1 << 20))) as client:
        client.send(b"".join(headers(GOOD, stream) for stream in (1, 3, 5)))
        client.read_until(
            lambda reader: (
                sum(len(reply.body) for reply in reader.replies.values()) == 65_535
                and all(stream in reader.replies for stream in (1, 3, 5))
            )
        )
        client.send(grant(0, 1 << 20))
        assert {client.reply(stream).body for stream in (1, 3, 5)} == {large}


def test_a_stream_without_a_window_holds_up_no_other(rig: Rig) -> None:
    rig.a.plans.extend([[ok(bytes(5))]] * 2)
    with Client(rig.port, hello=HELLO + settings((INITIAL_WINDOW, 0))) as client:
        client.send(headers(GOOD, 1))
        client.read_until(lambda reader: 1 in reader.replies)
        client.send(headers(GOOD, 3) + grant(3, 5))
        assert client.reply(3).body == bytes(5)
        assert received(client, 1) == [0]
        client.send(grant(1, 2))
        client.read_until(lambda reader: len(reader.replies[1].body) == 2)
        client.send(grant(1, 3))
        assert client.reply(1).body == bytes(5)


def test_padding_counts_in_the_windows(rig: Rig) -> None:
    """The window of the stream is given back as the backend takes its data, and of the connection with it."""
    padded = frame(DATA, PADDED, 1, b"\xff" + b"xyz" + bytes(255))
    with Client(rig.port) as client:
        client.send(headers(GOOD, end=False))
        for _ in range(600):  # 155 kB in 1.8 kB of data
            client.send(padded)
        client.read_until(
            lambda reader: any(kind == WINDOW_UPDATE and stream == 1 for kind, _, stream, _ in reader.frames)
        )
        client.send(data(b""))
        assert client.reply(1).status == 200
    assert [request.body for request in rig.requests] == [b"xyz" * 600]


def test_settings_are_confirmed_in_their_order(rig: Rig) -> None:
    rig.a.plans.append([ok(bytes(9))])
    with Client(rig.port) as client:
        client.send(settings((INITIAL_WINDOW, 5)) + headers(GOOD) + settings((INITIAL_WINDOW, 9)))
        assert client.reply(1).body == bytes(9)
        assert sum(kind == SETTINGS and flags == 1 for kind, flags, _, _ in client.reader.frames) == 3
