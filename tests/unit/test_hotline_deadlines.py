"""Deadlines of the hot line: in order, each for its own call, and silence for the connection."""

import asyncio
import signal
import sys
import time

import engine.hotline
import engine.redis_link
from engine.errors import OutcomeUnknown
from engine.hotline import HotLine
from engine.redis_link import RedisLink
from engine.settings import project_root
from tests.scripted_redis import OK, Connect, ScriptedRedis, bulk, outcome, outcomes, until

TIMEOUT_MS = 250


def link_of(line: HotLine) -> RedisLink:
    assert line._link is not None
    return line._link


async def test_a_late_reply_is_taken_in_its_place(server: ScriptedRedis, connect: Connect) -> None:
    line = await connect(timeout_ms=TIMEOUT_MS)
    slow = line.call("X", "slow")
    await server.received(1)
    started_at = time.monotonic()
    assert await outcome(slow) is OutcomeUnknown
    assert 0.8 * TIMEOUT_MS / 1000 < time.monotonic() - started_at < 5 * TIMEOUT_MS / 1000
    quick = line.call("X", "quick")
    assert line.in_flight == 2
    await server.received(2)
    server.send(bulk(b"of slow") + bulk(b"of quick"))
    assert await quick == b"of quick"
    assert line.in_flight == 0
    assert server.connections == 1


async def test_deadlines_pass_in_the_order_of_the_calls(server: ScriptedRedis, connect: Connect) -> None:
    line = await connect(timeout_ms=TIMEOUT_MS)
    finished: list[int] = []
    futures = []
    for number in range(3):
        future = line.call("X", number)
        future.add_done_callback(lambda _, number=number: finished.append(number))
        futures.append(future)
        await asyncio.sleep(0.02)
    assert await outcomes(*futures) == [OutcomeUnknown] * 3
    assert finished == [0, 1, 2]


async def test_an_answered_call_does_not_keep_the_deadline_of_the_next_one_away(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(timeout_ms=TIMEOUT_MS)
    for _ in range(3):
        server.answer = lambda command: OK
        assert await line.call("X") == b"OK"
        server.answer = None
        assert await outcome(line.call("X", "unanswered")) is OutcomeUnknown
        server.send(OK)
        await until(lambda: line.in_flight == 0)
    assert server.connections == 1


async def test_a_silent_connection_is_renewed_and_one_slow_call_is_not_silence(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(timeout_ms=TIMEOUT_MS)
    first = line.call("X", 1)
    assert await outcome(first) is OutcomeUnknown
    assert line.connected
    assert server.connections == 1
    second = line.call("X", 2)
    await until(lambda: server.connections == 2)
    assert await outcome(second) is OutcomeUnknown
    await until(lambda: line.connected)
    server.answer = lambda command: OK
    assert await line.call("X") == b"OK"


async def test_a_line_that_was_idle_for_long_is_not_a_silent_one(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect(timeout_ms=TIMEOUT_MS)
    await asyncio.sleep(3 * TIMEOUT_MS / 1000)
    assert await outcome(line.call("X")) is OutcomeUnknown
    assert line.connected
    assert server.connections == 1


async def test_deadlines_that_were_met_are_not_kept(server: ScriptedRedis, connect: Connect) -> None:
    server.answer = lambda command: OK
    line = await connect()
    for _ in range(50):
        await line.call("X")
    assert len(link_of(line)._deadlines) <= 2


SLEEPER = """
import asyncio, sys, uvloop
from engine.hotline import HotLine

async def main():
    line = HotLine(sys.argv[1], in_flight_max=10, timeout_ms=int(sys.argv[2]))
    await line.start()
    print(await line.call("X"), flush=True)

(uvloop.run if sys.argv[3] == "uvloop" else asyncio.run)(main())
"""


async def test_a_process_that_was_stopped_past_the_deadline_reads_before_it_judges(
    server: ScriptedRedis,
) -> None:
    loop_name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SLEEPER, server.url, str(TIMEOUT_MS), loop_name),
        cwd=project_root(),
        stdout=asyncio.subprocess.PIPE,
    )
    await server.received(1)
    # While it waits in its selector, which is where it spends a pause.
    await asyncio.sleep(TIMEOUT_MS / 1000 / 4)
    child.send_signal(signal.SIGSTOP)
    server.send(OK)
    await asyncio.sleep(TIMEOUT_MS / 1000 + engine.redis_link.LATE_TIMER_S + 0.1)
    child.send_signal(signal.SIGCONT)
    output, _ = await child.communicate()
    assert output.strip() == b"b'OK'"
