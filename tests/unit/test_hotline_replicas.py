"""With replicas asked for, a batch is answered once enough of them have it, and is unknown before."""

import asyncio
from collections.abc import Callable

from engine.errors import Fenced, OutcomeUnknown, StoreUnavailable
from engine.hotline import HotLine, RedisReplyError
from tests.scripted_redis import FAR_MS, Connect, ScriptedRedis, outcome, outcomes, until
from tests.stores import RedisServer

TIMEOUT_MS = 250
WAIT = [b"WAIT", b"2", b"15000"]


async def test_one_wait_closes_every_batch_and_ends_before_its_calls_time_out(
    server: ScriptedRedis, connect: Connect
) -> None:
    server.answer = lambda command: b":2\r\n"
    line = await connect(replicas_min=2)
    await asyncio.gather(*[line.call("X", number) for number in range(3)])
    await line.call("Y")
    x = [[b"X", b"0"], [b"X", b"1"], [b"X", b"2"]]
    assert server.commands == [*x, WAIT, [b"Y"], WAIT]
    assert int(WAIT[2]) < FAR_MS
    assert line.in_flight == 0


async def test_a_flush_before_the_end_of_the_tick_costs_no_wait_of_its_own(
    server: ScriptedRedis, connect: Connect
) -> None:
    server.answer = lambda command: b":2\r\n"
    line = await connect(replicas_min=2)
    first = line.call("X", 0)
    line.flush()
    await asyncio.gather(first, line.call("X", 1))
    assert server.commands == [[b"X", b"0"], [b"X", b"1"], WAIT]


async def test_a_batch_is_not_answered_before_its_wait(server: ScriptedRedis, connect: Connect) -> None:
    line = await connect(replicas_min=2)
    first = [line.call("X", number) for number in range(2)]
    await server.received(3)
    second = line.call("Y")
    await server.received(5)
    server.send(b":10\r\n:11\r\n")
    await asyncio.sleep(0.05)
    assert not any(future.done() for future in first)
    server.send(b":2\r\n:20\r\n")
    assert await outcomes(*first) == [10, 11]
    await asyncio.sleep(0.05)
    assert not second.done()
    server.send(b":3\r\n")
    assert await second == 20


async def test_too_few_replicas_leave_what_succeeded_unknown_and_refusals_what_they_are(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(replicas_min=2)
    futures = [line.call("X", number) for number in range(5)]
    await server.received(6)
    server.send(b":1\r\n-NOSCRIPT No matching script.\r\n-OOM full\r\n-ERR no\r\n$-1\r\n:1\r\n")
    assert await outcomes(*futures) == [
        OutcomeUnknown,
        Fenced,
        StoreUnavailable,
        RedisReplyError,
        OutcomeUnknown,
    ]
    # The next batch starts afresh.
    future = line.call("Y")
    await server.received(8)
    server.send(b":5\r\n:2\r\n")
    assert await future == 5


async def test_a_wait_that_is_refused_leaves_its_batch_unknown(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(replicas_min=2)
    future = line.call("X")
    await server.received(2)
    server.send(b":1\r\n-UNBLOCKED force unblock from blocking operation\r\n")
    assert await outcome(future) is OutcomeUnknown


async def test_a_connection_cut_between_a_reply_and_its_wait_leaves_it_unknown(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(replicas_min=2)
    futures = [line.call("X", number) for number in range(3)]
    await server.received(4)
    server.send(b":1\r\n-NOSCRIPT no\r\n")
    await until(futures[1].done)
    server.cut()
    assert await outcomes(*futures) == [OutcomeUnknown, Fenced, OutcomeUnknown]


async def test_the_deadline_holds_for_a_reply_whose_wait_does_not_end(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(replicas_min=2, timeout_ms=TIMEOUT_MS)
    future = line.call("X")
    await server.received(2)
    server.send(b":1\r\n")
    assert await outcome(future) is OutcomeUnknown
    late = line.call("Y")
    server.send(b":2\r\n")
    await server.received(4)
    server.send(b":7\r\n:2\r\n")
    assert await late == 7
    assert server.connections == 1


async def test_a_caller_cancelled_while_its_batch_waits_disturbs_nobody(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(replicas_min=2)
    futures = [line.call("X", number) for number in range(3)]
    await server.received(4)
    server.send(b":1\r\n:2\r\n:3\r\n")
    await asyncio.sleep(0.02)
    futures[1].cancel()
    await asyncio.sleep(0)
    server.send(b":2\r\n")
    assert await outcomes(futures[0], futures[2]) == [1, 3]


async def test_a_real_replica_that_stops_listening_makes_writes_unknown_until_it_is_back(
    new_redis: Callable[..., RedisServer],
) -> None:
    master = new_redis()
    replica = new_redis(replica_of=master)
    line = HotLine(master.url, in_flight_max=100, timeout_ms=400, replicas_min=1)
    await line.start()

    async def is_replicated() -> bool:
        return await outcome(line.call("SET", "warm", "up")) == b"OK"

    async with asyncio.timeout(20):
        while not await is_replicated():
            await asyncio.sleep(0.01)
    assert await line.call("INCR", "n") == 1
    replica.pause()
    assert await outcomes(line.call("INCR", "n"), line.call("EVALSHA", "0" * 40, 0)) == [
        OutcomeUnknown,
        Fenced,
    ]
    assert line.connected
    replica.resume()
    async with asyncio.timeout(20):
        while not await is_replicated():
            await asyncio.sleep(0.01)
    # What was unknown had been done.
    assert await line.call("GET", "n") == b"2"
    await line.close()
