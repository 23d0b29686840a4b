"""Clocks that are an hour off, where libfaketime is installed."""

import asyncio
from pathlib import Path

from rush.redis_store import RedisStore
from tests.drills.faults import fault
from tests.drills.run import Scene
from tests.drills.stack import WORKERS
from tests.stores import RedisServer

PLACES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib*/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)
OFFSETS = ("+1h", "-1h")


def library() -> Path | None:
    """libfaketime, where this machine has it."""
    for place in PLACES:
        for found in sorted(Path("/").glob(place.removeprefix("/"))):
            return found
    return None


def _missing() -> str | None:
    return None if library() else "libfaketime is not installed"


def _environment(offset: str) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME": offset,
        # A clock that is wrong still ticks: what is measured with the monotonic one is not touched.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


class ClockedRedisStore(RedisStore):
    """A Redis whose clock can be wrong from its next start on."""

    clock = ""

    def _preload(self) -> list[str]:
        # Not together with the allocator: the two of them crash the server at its start.
        wrong = [f"{name}={value}" for name, value in _environment(self.clock).items()] if self.clock else []
        return ["env", *wrong] if wrong else super()._preload()


class ClockedRedis(RedisServer):
    """The server that drills run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store: ClockedRedisStore = ClockedRedisStore(folder)


@fault("redis-clock", "redis", _missing)
async def redis_clock(scene: Scene) -> None:
    """Redis comes back an hour off, is not lifted for as long as that is so, and comes back right."""
    server = scene.stack.redis
    assert isinstance(server, ClockedRedis)
    with scene.fault("redis-clock"):
        for clock in (scene.random.choice(OFFSETS), ""):
            server.store.clock = clock
            scene.stack.redis_deaths += 1
            await server.restart_async(kill=True)
            await scene.sleep(0.5, 1.5)


@fault("worker-clock", "clock", _missing)
async def worker_clock(scene: Scene) -> None:
    """Every process of one kind of worker is an hour off: nothing that counts is decided by its clock."""
    kind = scene.random.choice(sorted(WORKERS))
    members = scene.stack.of_kind(kind)
    with scene.fault("worker-clock", kind):
        offset = scene.random.choice(OFFSETS)
        for wrong in (True, False):
            for member in members:
                member.kill()
                member.extra = _environment(offset) if wrong else {}
                member.start()
            await asyncio.sleep(scene.a_while(1.0, 5.0) if wrong else 0)
