"""The hot line against a real server."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest
import redis

import engine.hotline
from engine.errors import Fenced, OutcomeUnknown, StoreUnavailable
from engine.hotline import HotLine, RedisReplyError
from engine.redis_link import RedisLink
from tests.scripted_redis import outcome, outcomes, until
from tests.stores import RedisServer

CALLS = 6000


@pytest.fixture
async def line(redis_url: str) -> AsyncIterator[HotLine]:
    """A line to an empty Redis."""
    started = HotLine(redis_url, in_flight_max=10_000, timeout_ms=10_000)
    await started.start()
    yield started
    await started.close()


async def count_wrong_replies(line: HotLine) -> int:
    """Thousands of calls from concurrent tasks, a fifth of them cancelled; how many replies are wrong."""
    chance = random.Random(7)
    wrong = 0

    async def caller(number: int) -> None:
        nonlocal wrong
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        reply = await line.call("ECHO", f"{number}:{'x' * chance.randrange(200)}")
        wrong += not reply.startswith(b"%d:" % number)

    async with asyncio.timeout(20):
        tasks = [asyncio.create_task(caller(number)) for number in range(CALLS)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            for task in chance.sample(tasks, 40):
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert any(task.cancelled() for task in tasks)
    assert not all(task.cancelled() for task in tasks)
    return wrong


async def test_thousands_of_callers_of_whom_many_are_cancelled_each_get_their_own_reply(
    line: HotLine,
) -> None:
    assert await count_wrong_replies(line) == 0
    await until(lambda: line.in_flight == 0)


class ForgetfulLink(RedisLink):
    """The guard taken out: a reply goes to the first caller who still waits."""

    def data_received(self, data: bytes) -> None:
        waiting = [future for future in self.pending if future is not None and not future.done()]
        self.pending.clear()
        self.pending.extend(waiting)
        super().data_received(data)


async def test_without_places_for_cancelled_callers_replies_would_be_wrong(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.hotline, "RedisLink", ForgetfulLink)
    line = HotLine(redis_url, in_flight_max=10_000, timeout_ms=10_000)
    await line.start()
    assert await count_wrong_replies(line) > 0
    await line.close()


async def test_the_database_of_the_url_is_the_one_that_is_written(redis_url: str) -> None:
    line = HotLine(redis_url.removesuffix("/0") + "/3", in_flight_max=10, timeout_ms=5_000)
    await line.start()
    await line.call("SET", "k", "v")
    await line.close()
    with redis.Redis.from_url(redis_url.removesuffix("/0") + "/3") as client:
        assert client.get("k") == b"v"
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("k") is None


async def test_the_password_is_needed_and_a_named_user_may_have_his_own(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "buyer", "on", ">p@ss/word", "~*", "+@all")
        where = f"127.0.0.1:{urlsplit(redis_url).port}"
        for user_info, is_let_in in [
            ("", False),
            (":wrong@", False),
            ("buyer:wrong@", False),
            ("buyer:p%40ss%2Fword@", True),
        ]:
            line = HotLine(f"redis://{user_info}{where}", in_flight_max=10, timeout_ms=5_000)
            await line.start()
            assert line.connected is is_let_in, user_info
            await line.close()
        client.execute_command("ACL", "DELUSER", "buyer")


async def test_a_script_that_is_not_there_reads_as_the_fence(line: HotLine, redis_url: str) -> None:
    assert await outcome(line.call("EVALSHA", "0" * 40, 0)) is Fenced
    with redis.Redis.from_url(redis_url) as client:
        sha = client.script_load("return {KEYS[1], ARGV[1], 7}")
    assert await line.call("EVALSHA", sha, 1, "key", b"\x00arg") == [b"key", b"\x00arg", 7]


async def test_a_full_memory_reads_as_a_store_away_and_a_wrong_type_as_an_error(
    line: HotLine, redis_url: str
) -> None:
    await line.call("SET", "text", "x")
    assert await outcome(line.call("LPUSH", "text", "y")) is RedisReplyError
    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        assert await outcome(line.call("SET", "more", "y")) is StoreUnavailable
        client.config_set("maxmemory", before)
    assert await line.call("SET", "more", "y") == b"OK"


async def test_big_values_go_and_come(line: HotLine) -> None:
    big = bytes(range(256)) * 20_000
    assert await line.call("SET", "big", big) == b"OK"
    replies = await asyncio.gather(*[line.call("GET", "big") for _ in range(5)])
    assert all(reply == big for reply in replies)


async def test_a_killed_server_leaves_writes_unknown_and_the_line_finds_the_next_one(
    new_redis: Callable[..., RedisServer],
) -> None:
    server = new_redis()
    line = HotLine(server.url, in_flight_max=1000, timeout_ms=20_000)
    await line.start()
    server.pause()
    futures = [line.call("INCR", "n") for _ in range(10)]
    await asyncio.sleep(0.02)
    server.kill()
    assert await outcomes(*futures) == [OutcomeUnknown] * 10
    await until(lambda: not line.connected)
    with pytest.raises(StoreUnavailable):
        line.call("INCR", "n")
    await server.start_async()
    await until(lambda: line.connected)
    assert await line.call("INCR", "n") == 1
    await line.close()


async def test_a_frozen_server_is_noticed_and_the_line_is_back_when_it_wakes(
    new_redis: Callable[..., RedisServer],
) -> None:
    server = new_redis()
    line = HotLine(server.url, in_flight_max=1000, timeout_ms=200)
    await line.start()
    server.pause()
    assert await outcome(line.call("INCR", "n")) is OutcomeUnknown
    await until(lambda: not line.connected)
    server.resume()
    await until(lambda: line.connected)
    assert await line.call("PING") == b"PONG"
    await line.close()
