"""Work that nobody asked for at that moment: AOF rewrites, checkpoints, vacuuming, workers that look around.

It is switched off while operations are timed, and measured here by itself.
"""

import asyncio
import time

import msgspec

from loadtest.growth.processes import cpu_us
from loadtest.growth.rig import Rig
from loadtest.growth.steady import Latency, Steady
from loadtest.organizer import TargetError

REWRITE_TIMEOUT_S = 180.0
POLL_S = 0.05
IDLE_WORKERS = ("relay", "expiry", "recovery")


class Rewrite(msgspec.Struct):
    """One rewriting of the AOF, with reservations meanwhile."""

    holds: int
    rate_per_s: float
    before: Latency
    during: Latency
    seconds: float
    fork_ms: float
    child_cpu_s: float
    reserve_before_us: float
    reserve_during_us: float
    """CPU of the Redis process itself per reservation: copy on write shows here."""


class Upkeep(msgspec.Struct):
    """What Postgres does for itself."""

    holds: int
    checkpoint_s: float
    checkpoint_cpu_s: float
    vacuum_s: float
    vacuum_cpu_s: float


class Idle(msgspec.Struct):
    """What a worker costs while nothing happens: milliseconds of CPU a second."""

    worker: str
    events: int
    process_ms: float
    redis_ms: float
    postgres_ms: float


async def rewrite(rig: Rig, rate_per_s: float, before_s: float) -> Rewrite:
    """Rewrite the AOF under a steady stream of reservations."""
    redis = rig.stores.redis
    async with Steady(rig.crowd, rate_per_s) as stream:
        await asyncio.sleep(before_s / 4)
        await stream.settled()
        stream.take()
        before_us = rig.redis_us()
        await asyncio.sleep(before_s)
        before_us = rig.redis_us() - before_us
        before = stream.take()
        children_s = await _children_cpu_s(rig)
        during_us, began_s = rig.redis_us(), time.monotonic()
        await redis.bgrewriteaof()
        await asyncio.sleep(POLL_S)
        while (await redis.info("persistence"))["aof_rewrite_in_progress"]:
            if time.monotonic() - began_s > REWRITE_TIMEOUT_S:
                raise TargetError("the rewriting of the AOF does not end")
            await asyncio.sleep(POLL_S)
        seconds = time.monotonic() - began_s
        await stream.settled()
        during_us, during = rig.redis_us() - during_us, stream.take()
    return Rewrite(
        holds=rig.plan.holds,
        rate_per_s=rate_per_s,
        before=before,
        during=during,
        seconds=seconds,
        fork_ms=(await redis.info("stats"))["latest_fork_usec"] / 1000,
        child_cpu_s=await _children_cpu_s(rig) - children_s,
        reserve_before_us=before_us / max(before.reserves, 1),
        reserve_during_us=during_us / max(during.reserves, 1),
    )


async def _children_cpu_s(rig: Rig) -> float:
    info = await rig.stores.redis.info("cpu")
    return float(info["used_cpu_user_children"]) + float(info["used_cpu_sys_children"])


async def upkeep(rig: Rig) -> Upkeep:
    """A checkpoint of what the rounds have written, and a vacuum of what they have left."""
    (checkpointer,) = await rig.backends("checkpointer")
    began_s, before_us = time.monotonic(), cpu_us(checkpointer)
    await rig.eye.execute("CHECKPOINT", timeout=REWRITE_TIMEOUT_S)
    checkpoint_s, checkpoint_us = time.monotonic() - began_s, cpu_us(checkpointer) - before_us
    eye = rig.eye.get_server_pid()
    began_s, before_us = time.monotonic(), cpu_us(eye)
    await rig.vacuum()
    return Upkeep(
        holds=rig.plan.holds,
        checkpoint_s=checkpoint_s,
        checkpoint_cpu_s=checkpoint_us / 1e6,
        vacuum_s=time.monotonic() - began_s,
        vacuum_cpu_s=(cpu_us(eye) - before_us) / 1e6,
    )


async def idle(rig: Rig, seconds_each: float) -> list[Idle]:
    """Each worker by itself for a few seconds in which nobody buys anything."""
    seen = []
    for name in IDLE_WORKERS:
        worker = rig.relay if name == "relay" else await rig.work(name)
        worker.thaw()
        await asyncio.sleep(seconds_each)
        before = (cpu_us(worker.pid), rig.redis_us(), await rig.postgres_us(name))
        began_s = time.monotonic()
        await asyncio.sleep(seconds_each)
        seconds = time.monotonic() - began_s
        after = (cpu_us(worker.pid), rig.redis_us(), await rig.postgres_us(name))
        process, redis, postgres = [
            (now_us - then_us) / seconds / 1000 for now_us, then_us in zip(after, before, strict=True)
        ]
        seen.append(Idle(name, rig.plan.events, process, redis, postgres))
        worker.require_alive()
        if worker is rig.relay:
            worker.freeze()
        else:
            await worker.stop()
    return seen
