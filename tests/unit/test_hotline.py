"""The hot line against a server that does what the test says, on asyncio and on uvloop."""

import asyncio
from typing import Any

import pytest

import engine.hotline
import engine.redis_link
from engine.errors import OutcomeUnknown, Overloaded, StoreUnavailable
from engine.hotline import HotLine
from engine.redis_link import RedisLink
from tests.scripted_redis import OK, Connect, ScriptedRedis, bulk, outcome, outcomes, until

TIMEOUT_MS = 250


def link_of(line: HotLine) -> RedisLink:
    assert line._link is not None
    return line._link


class CountedTransport:
    """Passes everything on and keeps what was written."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def count_writes(line: HotLine) -> list[bytes]:
    link = link_of(line)
    transport = CountedTransport(link._transport)
    link._transport = transport  # type: ignore[assignment]
    return transport.writes


# One write a tick, replies in order.


async def test_every_call_of_a_tick_goes_out_in_one_write(server: ScriptedRedis, connect: Connect) -> None:
    server.answer = lambda command: bulk(command[1])
    line = await connect()
    writes = count_writes(line)

    async def one(number: int) -> bytes:
        reply: bytes = await line.call("ECHO", number)
        return reply

    assert await asyncio.gather(*map(one, range(100))) == [b"%d" % number for number in range(100)]
    assert len(writes) == 1
    assert await one(100) == b"100"
    assert len(writes) == 2


async def test_a_command_is_packed_as_it_was_given(server: ScriptedRedis, connect: Connect) -> None:
    server.answer = lambda command: OK
    line = await connect()
    await line.call("EVALSHA", b"\x00\xff\r\n", 2, "ключ", "", -5)
    assert server.commands == [
        [b"EVALSHA", b"\x00\xff\r\n", b"2", "ключ".encode(), b"", b"-5"],
    ]


@pytest.mark.parametrize("bad", [None, True, [], object(), "\ud800"])
async def test_an_argument_that_cannot_be_sent_is_refused_and_disturbs_nobody(
    server: ScriptedRedis, connect: Connect, bad: Any
) -> None:
    server.answer = lambda command: bulk(command[1])
    line = await connect()
    before = line.call("ECHO", "a")
    with pytest.raises((TypeError, UnicodeEncodeError)):
        line.call("ECHO", bad)
    assert await outcomes(before, line.call("ECHO", "b")) == [b"a", b"b"]


async def test_replies_of_every_kind_and_size_in_any_pieces_are_matched(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    big = b"\r\n+OK\r\n" * 400_000
    futures = [line.call("X", number) for number in range(5)]
    await server.received(5)
    wire = b":7\r\n$-1\r\n" + bulk(big) + b"*3\r\n:1\r\n$1\r\na\r\n*0\r\n+OK\r\n"
    head, tail = wire[:20], wire[-20:]
    for piece in [*(head[i : i + 1] for i in range(20)), wire[20:-20], *(tail[i : i + 1] for i in range(20))]:
        server.send(piece)
        await asyncio.sleep(0)
    assert await outcomes(*futures) == [7, None, big, [1, b"a", []], b"OK"]


# Cancelled callers.


async def test_a_call_cancelled_before_the_tick_ends_is_not_sent(
    server: ScriptedRedis, connect: Connect
) -> None:
    server.answer = lambda command: bulk(command[1])
    line = await connect()
    writes = count_writes(line)
    line.call("ECHO", "x").cancel()
    await asyncio.sleep(0.01)
    assert writes == []
    futures = [line.call("ECHO", name) for name in "abc"]
    futures[1].cancel()
    assert await outcomes(futures[0], futures[2]) == [b"a", b"c"]
    assert server.commands == [[b"ECHO", b"a"], [b"ECHO", b"c"]]
    assert line.in_flight == 0


async def count_shifted_replies(server: ScriptedRedis, line: HotLine) -> int:
    """Cancel every third of 90 calls that are on the wire; how many others get a wrong reply."""
    futures = [line.call("ECHO", number) for number in range(90)]
    sent = await server.received(90)
    for future in futures[::3]:
        future.cancel()
    await asyncio.sleep(0.01)
    server.send(b"".join(bulk(command[1]) for command in sent))
    await asyncio.sleep(0.05)
    kept = [(number, future) for number, future in enumerate(futures) if number % 3]
    return sum(not future.done() or future.result() != b"%d" % number for number, future in kept)


async def test_a_cancelled_caller_shifts_nobodys_reply(server: ScriptedRedis, connect: Connect) -> None:
    line = await connect()
    assert await count_shifted_replies(server, line) == 0
    assert line.in_flight == 0


class ForgetfulLink(RedisLink):
    """The guard taken out: a cancelled call gives up its place in the queue."""

    def submit(self, packed: bytes) -> asyncio.Future[Any]:
        future = super().submit(packed)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled() and future in self.pending:
            self.pending.remove(future)


async def test_without_its_place_in_the_queue_a_cancelled_caller_would_shift_replies(
    server: ScriptedRedis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.hotline, "RedisLink", ForgetfulLink)
    line = await connect()
    assert await count_shifted_replies(server, line) > 0


# Broken connections.


async def test_what_was_written_when_the_connection_breaks_is_unknown_and_the_line_comes_back(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    futures = [line.call("INCR", number) for number in range(3)]
    await server.received(3)
    server.send(b":1\r\n")
    await until(futures[0].done)
    server.cut()
    assert await outcomes(*futures) == [1, OutcomeUnknown, OutcomeUnknown]
    await until(lambda: line.connected)
    server.answer = lambda command: bulk(command[1])
    assert await line.call("ECHO", "again") == b"again"


@pytest.mark.parametrize("goodbye", ["cut", "end of file"])
async def test_a_call_whose_tick_did_not_end_before_the_connection_did_was_not_done(
    server: ScriptedRedis, connect: Connect, goodbye: str
) -> None:
    line = await connect()
    written = line.call("INCR", "a")
    await server.received(1)
    unwritten = line.call("INCR", "b")
    link = link_of(line)
    if goodbye == "cut":
        link.connection_lost(ConnectionResetError())
    else:
        link.eof_received()
    assert await outcomes(written, unwritten) == [OutcomeUnknown, StoreUnavailable]
    assert [command[1] for command in server.commands] == [b"a"]


async def test_a_transport_that_closes_before_the_tick_ends_takes_nothing(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    transport = link_of(line)._transport
    assert transport is not None
    before = line.call("INCR", "a")
    transport.abort()
    behind = line.call("INCR", "b")
    assert await outcomes(before, behind) == [StoreUnavailable, StoreUnavailable]
    assert server.commands == []


async def test_a_call_on_a_connection_that_has_ended_fails_with_the_tick(
    server: ScriptedRedis, connect: Connect
) -> None:
    # As when the server hangs up before the greeting is sent.
    link = link_of(await connect())
    link.drop("the test says so")
    future = link.submit(b"*1\r\n$1\r\nX\r\n")
    await asyncio.sleep(0)
    assert future.done()
    assert await outcome(future) is StoreUnavailable


async def test_a_call_while_the_line_is_down_is_refused_at_once(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    await server.close()
    await until(lambda: not line.connected)
    with pytest.raises(StoreUnavailable):
        line.call("PING")


async def test_a_garbled_reply_spoils_what_follows_and_not_what_came_before(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    futures = [line.call("X", number) for number in range(4)]
    await server.received(4)
    server.send(b":1\r\n:2\r\n?!\r\n:4\r\n")
    assert await outcomes(*futures) == [1, 2, OutcomeUnknown, OutcomeUnknown]
    await until(lambda: line.connected)
    assert server.connections == 2


async def test_a_reply_that_nobody_asked_for_ends_the_connection(
    server: ScriptedRedis, connect: Connect
) -> None:
    await connect()
    server.send(OK)
    await until(lambda: server.connections == 2)


# Bounds.


async def test_more_than_the_bound_in_flight_is_refused_until_replies_come(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(in_flight_max=3)
    futures = [line.call("X", number) for number in range(3)]
    with pytest.raises(Overloaded):
        line.call("X")
    await server.received(3)
    futures[0].cancel()
    with pytest.raises(Overloaded):
        line.call("X")  # its reply is still due
    server.send(OK)
    await until(lambda: line.in_flight == 2)
    line.call("X")


async def test_a_server_that_does_not_read_makes_the_line_refuse_and_not_grow(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    server.reading.clear()
    server.answer = lambda command: OK
    futures = []

    async def fill() -> None:
        while True:
            futures.append(line.call("X", b"x" * (1 << 20)))
            await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await fill()
    assert len(futures) < 50
    server.reading.set()
    assert await outcomes(*futures) == [b"OK"] * len(futures)
    assert await line.call("X") == b"OK"
