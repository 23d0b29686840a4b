"""Sentinels are asked at every connect, and believed only where the server says the same."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import engine.sentinel
from engine.hotline import HotLine
from engine.redis_url import RedisAddress, SentinelAddress
from engine.sentinel import MasterFinder, MasterUnknown
from tests.scripted_redis import FAR_MS, ScriptedRedis, bulk, greet, until


def names(port: int) -> bytes:
    """What a sentinel answers that knows a master."""
    return b"*2\r\n" + bulk(b"127.0.0.1") + bulk(b"%d" % port)


NOBODY = b"*-1\r\n"
MASTER = b"*1\r\n$6\r\nmaster\r\n"
REPLICA = b"*1\r\n$5\r\nslave\r\n"


@pytest.fixture
async def sentinels() -> AsyncIterator[list[ScriptedRedis]]:
    """Two servers that answer what they are told to."""
    opened = [ScriptedRedis(), ScriptedRedis()]
    for sentinel in opened:
        await sentinel.listen()
    yield opened
    for sentinel in opened:
        await sentinel.close()


def service(sentinels: list[ScriptedRedis], password: str | None = None) -> SentinelAddress:
    where = tuple(RedisAddress("127.0.0.1", each.port, password=password) for each in sentinels)
    return SentinelAddress(where, "rush", RedisAddress(password="hush"))


def say(sentinel: ScriptedRedis, reply: bytes | None) -> None:
    """A sentinel has no greeting: everything is a command to it."""
    sentinel.greet = lambda command: b"+OK\r\n" if command[0] == b"AUTH" else reply


async def test_the_first_sentinel_that_knows_is_believed(sentinels: list[ScriptedRedis]) -> None:
    say(sentinels[0], NOBODY)
    say(sentinels[1], names(7000))
    finder = MasterFinder(service(sentinels, "secret"))
    assert await finder.find() == RedisAddress("127.0.0.1", 7000, password="hush")
    assert sentinels[1].greetings == [
        [b"AUTH", b"secret"],
        [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"rush"],
    ]
    say(sentinels[1], names(7001))
    assert (await finder.find()).port == 7001
    assert sentinels[0].connections == 1, "who answered last is asked first"


async def test_who_does_not_answer_is_passed_over(
    sentinels: list[ScriptedRedis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.sentinel, "SENTINEL_TIMEOUT_S", 0.05)
    say(sentinels[0], None)
    say(sentinels[1], names(7000))
    assert (await MasterFinder(service(sentinels)).find()).port == 7000


async def test_an_attempt_that_ends_early_is_gone_on_with_behind_who_did_not_answer(
    sentinels: list[ScriptedRedis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.sentinel, "SENTINEL_TIMEOUT_S", FAR_MS / 1000)
    say(sentinels[0], None)
    say(sentinels[1], names(7000))
    finder = MasterFinder(service(sentinels))
    attempt = asyncio.create_task(finder.find())
    await until(lambda: sentinels[0].connections == 1)
    attempt.cancel()
    await asyncio.wait([attempt])
    assert (await finder.find()).port == 7000
    assert sentinels[0].connections == 1


async def test_where_nobody_knows_the_connect_fails_and_says_why(sentinels: list[ScriptedRedis]) -> None:
    say(sentinels[0], b"-ERR no such thing\r\n")
    await sentinels[1].close()
    with pytest.raises(MasterUnknown, match=r"no such thing.*ConnectionRefused"):
        await MasterFinder(service(sentinels)).find()


async def test_the_line_is_not_connected_to_a_replica_and_asks_again(sentinels: list[ScriptedRedis]) -> None:
    sentinel, server = sentinels
    say(sentinel, names(server.port))
    server.greet = greet
    role = REPLICA
    server.answer = lambda command: role if command == [b"ROLE"] else b":1\r\n"
    line = HotLine(service([sentinel]), in_flight_max=10, timeout_ms=FAR_MS)
    await line.start()
    try:
        assert not line.connected
        await until(lambda: sentinel.connections > 2)
        assert not line.connected
        role = MASTER
        await until(lambda: line.connected)
        assert await line.call("INCR", "x") == 1
    finally:
        await line.close()
