"""The servers that the tests stand on do what the tests believe of them."""

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import redis
import redis.asyncio

from engine.settings import Settings
from rush.redis_store import allocator_environment, embedded_redis
from tests.stores import PostgresServer, RedisServer

RETURN_1_SHA = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_redis_comes_back_after_kill_9_with_every_answered_write(
    new_redis: Callable[..., RedisServer],
) -> None:
    server = new_redis()
    port = server.port
    with _client(server) as client:
        assert client.config_get("appendfsync", "maxmemory-policy") == {
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        client.set("kept", "1")
        client.script_load("return 1")
        server.restart(kill=True)
        assert server.port == port
        assert client.get("kept") == "1"
        with pytest.raises(redis.exceptions.NoScriptError):
            client.evalsha(RETURN_1_SHA, 0)


@pytest.mark.skipif(not allocator_environment(), reason="no allocator is installed for this machine")
def test_redis_runs_with_the_allocator_that_its_wheel_lacks(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    maps = Path(f"/proc/{server.pid}/maps").read_text(encoding="utf-8")
    assert ("libmimalloc" in maps) == (server.store.binary == embedded_redis()), "others have their own"


def test_redis_comes_back_empty_when_asked(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with _client(server) as client:
        client.set("kept", "1")
        server.restart(empty=True)
        assert client.dbsize() == 0


def test_redis_starts_with_a_truncated_tail(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with _client(server) as client:
        client.set("first", "1")
        client.set("second", "2")
        server.kill()
        [log] = server.folder.rglob("*.incr.aof")
        log.write_bytes(log.read_bytes()[:-3])
        server.start()
        assert client.get("first") == "1"
        assert client.get("second") is None


def test_a_replica_follows_its_master(new_redis: Callable[..., RedisServer]) -> None:
    master = new_redis()
    replica = new_redis(replica_of=master)
    with _client(master) as client, _client(replica) as copy:
        for _ in range(500):
            client.set("seen", "1")
            if client.wait(1, 20) == 1:
                break
        assert copy.get("seen") == "1"


async def test_postgres_comes_back_after_kill_9(new_postgres: Callable[[], PostgresServer]) -> None:
    server = new_postgres()
    connection = await asyncpg.connect(server.url)
    await connection.execute("INSERT INTO categories (name, slug) VALUES ('Music', 'music')")
    connection.terminate()
    await server.restart_async(kill=True)
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT count(*) FROM categories") == 1
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await connection.close()


@pytest.mark.parametrize("repeat", [1, 2])
async def test_every_test_starts_with_empty_stores_and_no_scripts(
    settings: Settings, redis_client: redis.asyncio.Redis, database: asyncpg.Connection, repeat: int
) -> None:
    assert await redis_client.dbsize() == 0
    assert await database.fetchval("SELECT count(*) FROM users") == 0
    with pytest.raises(redis.exceptions.NoScriptError):
        await redis_client.evalsha(RETURN_1_SHA, 0)
    # Left behind for the other run of this test to find.
    assert await redis_client.script_load("return 1") == RETURN_1_SHA
    await redis_client.set("left", "behind")
    await database.execute("INSERT INTO categories (name, slug) VALUES ('Music', 'music')")
