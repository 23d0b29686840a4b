"""Filling a rig to its size, and what a hold and a buyer take of Redis' memory."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from engine.ids import keyed_booking_id
from loadtest.growth.crowd import buyer
from loadtest.growth.rig import Rig

LANES = 3
"""Groups of reservations under way at the same time."""
LANE_HOLDS = 2_000
LEDGER_LAG_MAX = 100_000
"""The fill waits for a relay that is further behind."""
SAY_EVERY_S = 5.0
SAMPLES = 500
RATE_KEYS_TTL_S = 4.0
"""A rate limit of one attempt is gone after three seconds."""

Say = Callable[[str], None]


class Memory(msgspec.Struct):
    """Bytes of Redis memory."""

    holds: int
    per_hold: float
    """Everything that a live hold of a new buyer adds, by the growth of used_memory."""
    record: float
    """The booking's record and its place in the keyspace, mean of samples (MEMORY USAGE)."""
    buyer: float
    """A buyer's field in `buyers`."""
    deadlines: float
    """The two members of a hold of one zone in `deadlines`."""
    rest: float
    """What is left: tables of the keyspace, rounding of the allocator."""
    ledger_entry: float
    """An entry of the ledger, while it is there."""


async def fill(rig: Rig, say: Say) -> Memory:
    """Make the plan's holds, wait until all are in Postgres, tidy up as the workers would; the memory."""
    redis, keys = rig.stores.redis, rig.hot.keys
    empty = (await redis.info("memory"))["used_memory"]
    said_s, began_ms = time.monotonic(), await rig.now_ms()
    left = rig.plan.holds
    while left:
        wave = min(left, LANES * LANE_HOLDS)
        shares = [wave // LANES + (lane < wave % LANES) for lane in range(LANES)]
        await asyncio.gather(*[rig.crowd.reserve(share) for share in shares if share])
        left -= wave
        if time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            say(f"{rig.plan.name}: {rig.plan.holds - left:,} made, relay lag {await rig.lag():,}")
        await rig.until_caught_up(lag_max=LEDGER_LAG_MAX)
    rig.filled_ms = (began_ms, await rig.now_ms())
    length, used = await redis.xlen(keys.ledger), await redis.memory_usage(keys.ledger, samples=0)
    await rig.until_caught_up()
    epoch, seq = await redis.hmget(keys.sale, "epoch", "seq")
    await redis.xtrim(keys.ledger, minid=f"{int(epoch or 0)}-{int(seq or 0)}", approximate=False)
    await rig.eye.execute("DELETE FROM outbox")
    await rig.vacuum()
    await rig.eye.execute("CHECKPOINT")
    await asyncio.sleep(RATE_KEYS_TTL_S)
    full = (await redis.info("memory"))["used_memory"]
    return await _measure(rig, full - empty, (used or 0) / max(length, 1))


async def _measure(rig: Rig, grown: int, ledger_entry: float) -> Memory:
    redis: Any = rig.stores.redis
    keys, holds = rig.hot.keys, rig.plan.holds
    secret = bytes.fromhex((await redis.hget(keys.sale, "secret")).decode())
    numbers = random.sample(range(holds), min(SAMPLES, holds))
    pipeline = redis.pipeline(transaction=False)
    for number in numbers:
        booking_id = keyed_booking_id(rig.hot.cell_id, secret, buyer(number), f"growth-{number}")
        pipeline.memory_usage(keys.booking(booking_id))
    records = await pipeline.execute()
    buyers = await redis.memory_usage(keys.buyers, samples=0) / holds
    deadlines = await redis.memory_usage(keys.deadlines, samples=0) / holds
    record = sum(records) / len(records)
    return Memory(
        holds=holds,
        per_hold=grown / holds,
        record=record,
        buyer=buyers,
        deadlines=deadlines,
        rest=grown / holds - record - buyers - deadlines,
        ledger_entry=ledger_entry,
    )
