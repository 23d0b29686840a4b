"""A replica is promoted that lacks the last entries; for a while the old master is there too, and is used."""

import asyncio
import time

from tests.drills.fault_redis import client_of
from tests.drills.faults import fault
from tests.drills.run import Scene
from tests.stores import RedisServer

IN_STEP_TIMEOUT_S = 20.0
POLL_S = 0.02


async def _follow(scene: Scene) -> RedisServer:
    """A replica, in step with the master that everybody uses."""
    replica = await scene.stack.attach_replica()
    await _in_step(scene.stack.redis, replica)
    # A master that gets its first replica takes another replication id: it is fenced and lifted now.
    await scene.sleep(0.8, 1.6)
    return replica


async def _in_step(master: RedisServer, replica: RedisServer) -> None:
    deadline_s = time.monotonic() + IN_STEP_TIMEOUT_S
    async with client_of(master) as there, client_of(replica) as here:
        while True:
            info, other = await here.info("replication"), await there.info("replication")
            if info.get("master_link_status") == "up" and info["master_replid"] == other["master_replid"]:
                return
            assert time.monotonic() < deadline_s, f"the replica does not follow: {info}"
            await asyncio.sleep(POLL_S)


async def _promote(server: RedisServer) -> None:
    server.store.replica_of = None
    async with client_of(server) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")


async def _demote(server: RedisServer, master: RedisServer) -> None:
    async with client_of(server) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", master.port)


def _stall(scene: Scene) -> None:
    assert scene.stack.replication is not None
    scene.stack.replication.stall()


@fault("promotion-lagging", "redis")
async def promotion_lagging(scene: Scene) -> None:
    """The link lags, the master dies, the replica takes its place."""
    replica = await _follow(scene)
    with scene.fault("promotion-lagging", may_lose=True):
        _stall(scene)
        await scene.sleep(0.1, 1.5)
        scene.stack.redis.kill()
        scene.stack.redis_deaths += 1
        await scene.sleep(0.0, 0.4)
        await _promote(replica)
        scene.stack.lead_to(replica)
        await scene.stack.drop_other_redis()


@fault("two-masters", "redis")
async def two_masters(scene: Scene) -> None:
    """The master is replaced and does not know it: some still use it, others the new one."""
    stack, replica = scene.stack, await _follow(scene)
    with scene.fault("two-masters", may_lose=True):
        _stall(scene)
        await scene.sleep(0.1, 1.0)
        if scene.random.random() < 0.3:
            # The old one was away, and comes back with its data.
            await stack.redis.restart_async(kill=True)
        stack.redis_deaths += 1
        await _promote(replica)
        names = sorted(stack.members)
        moved = scene.random.sample(names, scene.random.randint(1, len(names) - 1))
        stack.lead_to(replica, *moved)
        await scene.sleep_a_while(0.5, 6.0)
        stack.lead_to(replica)
        await scene.sleep(0.0, 1.0)
        await stack.drop_other_redis()


@fault("promotion-and-back", "redis")
async def promotion_and_back(scene: Scene) -> None:
    """The demoted master follows the new one, keeps its scripts if nobody takes them, and is promoted again
    without the last entries."""
    stack, second = scene.stack, await _follow(scene)
    with scene.fault("promotion-and-back", may_lose=True):
        first = stack.redis
        stack.redis_deaths += 1
        await _promote(second)
        stack.lead_to(second)
        await _demote(first, second)
        await _in_step(second, first)
        await scene.sleep(0.3, 2.0)
        async with client_of(first) as client:
            await client.config_set("masterauth", "wrong")
        async with client_of(second) as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        await scene.sleep(0.1, 1.0)
        stack.redis_deaths += 1
        await _promote(first)
        stack.lead_to(first)
        async with client_of(first) as client:
            await client.config_set("masterauth", first.store.password)
        await stack.drop_other_redis()
