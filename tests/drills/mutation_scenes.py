"""What is done to the system so that a planted bug shows, each as short as it can be.

A scene is a strike as the drills have it: it gets a `Scene`, and returns when all is mended again. Without a
bug every one of them must leave nothing to find.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.drills.clients import Client
from tests.drills.organizer import Organizer
from tests.drills.run import Scene
from tests.stores import RedisServer

TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 15.0
POLL_S = 0.02
CUT_BYTES = 6_000
LATE_COMERS = 8

POISON = """
CREATE OR REPLACE FUNCTION drill_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'confirmed' AND get_byte(uuid_send(NEW.id), 15) % 4 = 0 THEN
        RAISE EXCEPTION 'poisoned' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER drill_poison BEFORE INSERT OR UPDATE ON bookings
FOR EACH ROW EXECUTE FUNCTION drill_poison();
"""
ANTIDOTE = "DROP TRIGGER IF EXISTS drill_poison ON bookings"


class Stage(Scene):
    """A scene that knows where its history is written."""

    folder: Path


Strike = Callable[[Stage], Awaitable[None]]

WITH_QUEUE = {"waits", "waits_and_end_cut_off"}
"""Scenes in which people wait for a second event."""
ARMED = {"dies_after_offset": ("relay", "projection.after_offset:3:kill")}
"""Scene → the members that have a fail point from the beginning, and which."""


@contextlib.asynccontextmanager
async def client_of(server: RedisServer):  # type: ignore[no-untyped-def]
    """A client for what an administrator could do."""
    client = redis.asyncio.Redis.from_url(server.url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


async def _flush(scene: Scene) -> None:
    async with client_of(scene.stack.redis) as client:
        await client.flushall()


async def _until_open(scene: Scene) -> None:
    """Wait until somebody has opened the cell again."""
    deadline_s = time.monotonic() + OPEN_TIMEOUT_S
    async with client_of(scene.stack.redis) as client:
        while time.monotonic() < deadline_s:
            found = [key async for key in client.scan_iter(match="rush:{*}:sale")]
            opened = [await client.hexists(key, "epoch") for key in found]
            if opened and all(opened):
                return
            await asyncio.sleep(POLL_S)


async def _until_committed(scene: Scene, batches: int) -> None:
    """Wait until the event's offset has moved so often."""
    deadline_s = time.monotonic() + OPEN_TIMEOUT_S
    connection = await asyncpg.connect(scene.stack.postgres.url)
    try:
        query = "SELECT count(*) FROM drill_offsets WHERE event_id = $1"
        before = await connection.fetchval(query, scene.event.id)
        while await connection.fetchval(query, scene.event.id) < before + batches:
            assert time.monotonic() < deadline_s, "nothing is committed"
            await asyncio.sleep(POLL_S)
    finally:
        await connection.close()


def _relays_and_postgres(scene: Scene) -> list:  # type: ignore[type-arg]
    return [scene.stack.network(member.name, "postgres") for member in scene.stack.of_kind("relay")]


async def nothing(scene: Scene) -> None:
    """People buy, and some let go."""
    await asyncio.sleep(2.0)


async def waits(scene: Scene) -> None:
    """People join a waiting room, are let in, and reserve, some of them once too often or without a pass."""
    await asyncio.sleep(5.0)


async def waits_and_end_cut_off(scene: Scene) -> None:
    """The same, and Redis is back without the end of what it had."""
    await asyncio.sleep(1.0)
    await end_cut_off(scene)
    await asyncio.sleep(1.0)


async def flushed(scene: Scene) -> None:
    """Somebody types FLUSHALL."""
    await asyncio.sleep(0.8)
    with scene.fault("redis-flushall", may_lose=True):
        await _flush(scene)
        await _until_open(scene)
    await asyncio.sleep(0.5)


async def lost_before_durable(scene: Scene) -> None:
    """A commit takes seconds, people confirm, the relays die in it, and Redis loses everything."""
    with scene.fault("redis-flushall", "while the relays are slow, and they die", may_lose=True):
        for way in _relays_and_postgres(scene):
            way.delay_s = 0.15
        # The second batch from here has all that was done during the first.
        await _until_committed(scene, batches=2)
        # It is read some round trips later, and takes ten.
        await asyncio.sleep(1.2)
        for member in scene.stack.of_kind("relay"):
            member.kill()
        await _flush(scene)
        for way in _relays_and_postgres(scene):
            way.heal()
        for member in scene.stack.of_kind("relay"):
            member.start()
        await _until_open(scene)


async def lost_twice(scene: Scene) -> None:
    """The same after an epoch in which the relay had come further."""
    await asyncio.sleep(1.0)
    with scene.fault("redis-flushall", "twice, while the relays do not reach Postgres", may_lose=True):
        for way in _relays_and_postgres(scene):
            way.stall()
        await _flush(scene)
        await _until_open(scene)
        await asyncio.sleep(1.0)
        await _flush(scene)
        for way in _relays_and_postgres(scene):
            way.heal()
        await _until_open(scene)


async def dies_after_offset(scene: Scene) -> None:
    """A relay dies when it has moved the offset: see ARMED."""
    with scene.fault("relay-kill", "after the offset"):
        await asyncio.sleep(1.5)


async def zombie_relay(scene: Scene) -> None:
    """A relay is cut off with a batch in its hands, loses its lease, and comes back when others went on."""
    await asyncio.sleep(0.3)
    first, second = (member.name for member in scene.stack.of_kind("relay"))
    with scene.fault("relay-cut-off"):
        # Whoever holds the shards: the first that is cut off, the other follows when it took over.
        for name in (first, second):
            way = scene.stack.network(name, "postgres")
            way.stall()
            await asyncio.sleep(0.3)
            connection = await asyncpg.connect(scene.stack.postgres.url)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'rush relay lease'"
            )
            await connection.close()
            await asyncio.sleep(2.6)
            way.heal()
            await asyncio.sleep(0.3)


async def published_after_flush(scene: Scene) -> None:
    """FLUSHALL while recovery is stopped, and the organizer presses publish."""
    await asyncio.sleep(0.8)
    organizer = Organizer(scene.stack)
    with scene.fault("redis-flushall", "while recovery is stopped", may_lose=True):
        for member in scene.stack.of_kind("recovery"):
            member.pause()
        await _flush(scene)
        publish = asyncio.create_task(organizer._call("POST", f"/events/{scene.event.id}/publish", {}))
        await asyncio.sleep(0.8)
        for member in scene.stack.of_kind("recovery"):
            member.resume()
        await publish
        await _until_open(scene)
    organizer.close()


async def there_and_back(scene: Scene) -> None:
    """A replica is promoted, the old master follows it, and is promoted again without the last entries."""
    stack = scene.stack
    first, second = stack.redis, await stack.attach_replica()
    await _in_step(first, second)
    await asyncio.sleep(1.0)
    with scene.fault("promotion-and-back", may_lose=True):
        await _lead(scene, second)
        async with client_of(first) as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", second.port)
        await _in_step(second, first)
        await _until_open(scene)
        await asyncio.sleep(1.5)
        # From here on the old master misses what is sold.
        async with client_of(first) as client:
            await client.config_set("masterauth", "wrong")
        async with client_of(second) as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        await asyncio.sleep(0.6)
        # And nobody looks at once.
        lookers = [*stack.of_kind("recovery"), *stack.of_kind("relay")]
        for member in lookers:
            member.pause()
        await _lead(scene, first)
        await asyncio.sleep(0.8)
        for member in lookers:
            member.resume()
        async with client_of(first) as client:
            await client.config_set("masterauth", first.store.password)
        await stack.drop_other_redis()
        await _until_open(scene)


async def _lead(scene: Scene, server: RedisServer) -> None:
    server.store.replica_of = None
    async with client_of(server) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")
    scene.stack.lead_to(server)


async def _in_step(master: RedisServer, replica: RedisServer) -> None:
    deadline_s = time.monotonic() + OPEN_TIMEOUT_S
    async with client_of(master) as there, client_of(replica) as here:
        while time.monotonic() < deadline_s:
            info, other = await here.info("replication"), await there.info("replication")
            if info.get("master_link_status") == "up" and info["master_replid"] == other["master_replid"]:
                return
            await asyncio.sleep(POLL_S)
    raise AssertionError(f"the replica does not follow: {info}")


async def poisoned(scene: Scene) -> None:
    """Postgres refuses a quarter of all confirmations."""
    connection = await asyncpg.connect(scene.stack.postgres.url)
    try:
        with scene.fault("poison"):
            await connection.execute(POISON)
            await asyncio.sleep(1.5)
            await connection.execute(ANTIDOTE)
    finally:
        await connection.close()


async def replies_lost(scene: Scene) -> None:
    """What Redis answers does not arrive for a while."""
    await asyncio.sleep(0.3)
    ways = [scene.stack.network(member.name, "redis") for member in scene.stack.gateways]
    with scene.fault("replies-dropped"):
        for _ in range(3):
            for way in ways:
                way.drop_replies()
            await asyncio.sleep(0.1)
            for way in ways:
                way.heal()
            await asyncio.sleep(0.8)


async def redis_stalls(scene: Scene) -> None:
    """What is on the way between gateways and Redis waits for longer than the gateways do."""
    await asyncio.sleep(0.3)
    ways = [scene.stack.network(member.name, "redis") for member in scene.stack.gateways]
    timeout_s = scene.stack.settings.hot_line_timeout_ms / 1000
    with scene.fault("network-stall"):
        for _ in range(3):
            for way in ways:
                way.stall()
            await asyncio.sleep(timeout_s * 1.4)
            for way in ways:
                way.heal()
            await asyncio.sleep(0.3)


async def nobody_sweeps(scene: Stage) -> None:
    """The sweeper is stopped, and people confirm when it is too late."""
    with scene.fault("expiry-stopped"):
        for member in scene.stack.of_kind("expiry"):
            member.pause()
        late = [
            Client(scene.load, scene.stack, scene.folder, scene.run.seed, 1000 + number)
            for number in range(LATE_COMERS)
        ]
        await asyncio.gather(*[_come_late(scene, client) for client in late])
        for member in scene.stack.of_kind("expiry"):
            member.resume()


async def _come_late(scene: Stage, client: Client) -> None:
    buyer, zone = uuid4(), scene.event.zones[0].id
    answer = await client._reserve(buyer, [(zone, 1)], uuid4().hex)
    if answer is not None and answer.status == 201:
        booking = msgspec.json.decode(answer.body)["data"]["id"]
        await asyncio.sleep(scene.event.hold_ttl_ms / 1000 + 0.05)
        await client._ask("confirm", buyer, booking=booking)
    client.close()


async def end_cut_off(scene: Scene) -> None:
    """Redis is back without the end of what it had, and recovery does not look at once."""
    await asyncio.sleep(0.6)
    server = scene.stack.redis
    lookers = scene.stack.of_kind("recovery")
    with scene.fault("redis-cut", may_lose=True):
        for member in lookers:
            member.pause()
        server.kill()
        _cut(server.folder)
        await server.start_async()
        await asyncio.sleep(1.2)
        for member in lookers:
            member.resume()
        await _until_open(scene)


def _cut(folder: Path) -> None:
    last = max((folder / "appendonlydir").glob("*.incr.aof"))
    os.truncate(last, last.stat().st_size - CUT_BYTES)


SCENES: dict[str, Strike] = {
    strike.__name__: strike
    for strike in (
        nothing,
        waits,
        waits_and_end_cut_off,
        flushed,
        lost_before_durable,
        lost_twice,
        dies_after_offset,
        zombie_relay,
        published_after_flush,
        there_and_back,
        poisoned,
        replies_lost,
        redis_stalls,
        nobody_sweeps,
        end_cut_off,
    )
}
