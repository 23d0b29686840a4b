"""Redis: killed, frozen, restarted with all, some or nothing of what it had, flushed, full."""

import asyncio
import contextlib
import os
import resource
from pathlib import Path

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.drills.faults import fault
from tests.drills.run import Scene
from tests.stores import RedisServer

TIMEOUT_S = 2.0
CUT_BYTES_MAX = 30_000
STORM_KILLS = (3, 6)
FULL_BYTES_MAX = 4_000
"""What the full disk still takes."""
EXIT_TIMEOUT_S = 10.0


@contextlib.asynccontextmanager
async def client_of(server: RedisServer):  # type: ignore[no-untyped-def]
    """A client for doing to a server what its administrator could."""
    client = redis.asyncio.Redis.from_url(server.url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


def kill(scene: Scene) -> None:
    """kill -9, counted."""
    scene.stack.redis.kill()
    scene.stack.redis_deaths += 1


@fault("redis-kill", "redis")
async def redis_kill(scene: Scene) -> None:
    """kill -9, and back with all its data."""
    with scene.fault("redis-kill"):
        kill(scene)
        await scene.sleep(0.0, 0.6)
        await scene.stack.redis.start_async()


@fault("redis-storm", "redis")
async def redis_storm(scene: Scene) -> None:
    """Again and again, also before it was lifted."""
    for _ in range(scene.random.randint(*STORM_KILLS)):
        await redis_kill(scene)
        await scene.sleep(0.05, 1.0)


@fault("redis-pause", "redis")
async def redis_pause(scene: Scene) -> None:
    """Frozen: connections stay open."""
    with scene.fault("redis-pause"):
        scene.stack.redis.pause()
        await scene.sleep_a_while()
        scene.stack.redis.resume()


@fault("redis-restart", "redis")
async def redis_restart(scene: Scene) -> None:
    """Stopped and started in order."""
    with scene.fault("redis-restart"):
        scene.stack.redis_deaths += 1
        await scene.stack.redis.restart_async()


@fault("redis-cut", "redis")
async def redis_cut(scene: Scene) -> None:
    """Killed, and the last of what it had written is gone."""
    with scene.fault("redis-cut", may_lose=True):
        kill(scene)
        files = sorted((scene.stack.redis.folder / "appendonlydir").glob("*.incr.aof"))
        size = files[-1].stat().st_size
        os.truncate(files[-1], size - scene.random.randint(1, min(CUT_BYTES_MAX, max(1, size // 2))))
        await scene.stack.redis.start_async()


@fault("redis-empty", "redis")
async def redis_empty(scene: Scene) -> None:
    """Killed, and back with nothing."""
    with scene.fault("redis-empty", may_lose=True):
        scene.stack.redis_deaths += 1
        await scene.stack.redis.restart_async(kill=True, empty=True)


@fault("redis-flushall", "redis")
async def redis_flushall(scene: Scene) -> None:
    """Somebody types FLUSHALL."""
    with scene.fault("redis-flushall", may_lose=True):
        async with client_of(scene.stack.redis) as client:
            await client.flushall()
        scene.stack.redis_deaths += 1


@fault("redis-script-flush", "redis")
async def redis_script_flush(scene: Scene) -> None:
    """Somebody types SCRIPT FLUSH."""
    with scene.fault("redis-script-flush"):
        async with client_of(scene.stack.redis) as client:
            await client.script_flush()


@fault("redis-memory-full", "redis")
async def redis_memory_full(scene: Scene) -> None:
    """maxmemory is reached, and raised some time later."""
    with scene.fault("redis-memory-full"):
        async with client_of(scene.stack.redis) as client:
            before = (await client.config_get("maxmemory"))["maxmemory"]
            await client.config_set("maxmemory", 1)
        await scene.sleep_a_while(0.5, 5.0)
        async with client_of(scene.stack.redis) as client:
            await client.config_set("maxmemory", before)


@fault("redis-disk-full", "redis")
async def redis_disk_full(scene: Scene) -> None:
    """The file that it appends to can grow no more: with `appendfsync always` it ends itself. Then there is
    room again."""
    server = scene.stack.redis
    with scene.fault("redis-disk-full"):
        _limit(server, _largest(server.folder) + scene.random.randint(0, FULL_BYTES_MAX))
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            while server.is_running:
                await asyncio.sleep(0.02)
        scene.stack.redis_deaths += 1
        await scene.sleep(0.0, 1.0)
        await server.start_async()


def _largest(folder: Path) -> int:
    return max(file.stat().st_size for file in (folder / "appendonlydir").glob("*.incr.aof"))


def _limit(server: RedisServer, size: int) -> None:
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, hard))
