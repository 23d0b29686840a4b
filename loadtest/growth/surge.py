"""Many holds that fall due in the same second, a real expiry worker, and what a reserve notices of it."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from loadtest.growth.options import Options
from loadtest.growth.rig import Rig
from loadtest.growth.steady import Latency, Steady
from loadtest.organizer import TargetError

GROUP = 256
PROBE = 2_048
MARGIN = 1.5
"""How much slower than the first of them the others may be made."""
GONE_TIMEOUT_S = 120.0
POLL_S = 0.02
SLOWLOG_ENTRIES_MAX = 100_000
SLOW_US = 200
"""What took longer is looked at: every call that took a slice back, hardly any single command in it."""
WINDOW_MS = 1_000

Say = Callable[[str], None]


class Surge(msgspec.Struct):
    """What was seen."""

    holds: int
    rate_per_s: float
    before: Latency
    during: Latency
    taken_back_s: float
    """From the deadline until the last of them was back."""
    slice_max: int
    """The most that one call was allowed to take back, as its arguments say."""
    calls: int
    """Calls of expire.lua that took longer than SLOW_US."""
    call_median_us: float
    call_max_us: float
    """Of the script alone, as SLOWLOG has it."""


async def surge(rig: Rig, options: Options, say: Say) -> Surge:
    """Make the holds, let them fall due, watch. Raises TargetError when they do not come back."""
    redis, holds, rate_per_s = rig.stores.redis, options.surge_holds, options.surge_rate_per_s
    before_s = options.pause_s
    rig.relay.thaw()
    slice_max = options.expiry_slice_max or rig.settings.expiry_slice_max
    expiry = await rig.work("expiry", expiry_slice_max=slice_max)
    due_ms = await _hold_until_one_moment(rig, holds, before_s)
    say(f"surge: {await _due(rig, due_ms):,} holds fall due in {(due_ms - await rig.now_ms()) / 1000:.1f} s")
    await rig.until_caught_up()
    await redis.slowlog_reset()
    await redis.config_set("slowlog-max-len", SLOWLOG_ENTRIES_MAX)
    async with Steady(rig.crowd, rate_per_s) as stream:
        await asyncio.sleep(max(0.0, due_ms - await rig.now_ms()) / 1000 - before_s)
        stream.take()
        await asyncio.sleep(max(0.0, due_ms - await rig.now_ms()) / 1000)
        before = stream.take()
        await redis.config_set("slowlog-log-slower-than", SLOW_US)
        began_s = time.monotonic()
        while await _due(rig, due_ms):
            expiry.require_alive()
            if time.monotonic() - began_s > GONE_TIMEOUT_S:
                raise TargetError("the expiry worker does not get through")
            await asyncio.sleep(POLL_S)
        taken_back_s = time.monotonic() - began_s
        await stream.settled()
        during = stream.take()
        durations_us, slice_max = await _expire_calls(rig)
    await expiry.stop()
    await rig.until_caught_up()
    return Surge(
        holds=holds,
        rate_per_s=rate_per_s,
        before=before,
        during=during,
        taken_back_s=taken_back_s,
        slice_max=slice_max,
        calls=len(durations_us),
        call_median_us=durations_us[len(durations_us) // 2],
        call_max_us=durations_us[-1],
    )


async def _hold_until_one_moment(rig: Rig, holds: int, before_s: float) -> int:
    """So many holds that end in the same second; when that is, by the clock of Redis."""
    ttl_ms = await rig.stores.redis.hget(rig.hot.keys.sale, "hold_ttl_ms")
    began_ms = await rig.now_ms()
    await rig.crowd.reserve(min(PROBE, holds))  # these stay: they only show how long it takes
    took_ms = (await rig.now_ms() - began_ms) * holds / min(PROBE, holds)
    due_ms = await rig.now_ms() + int(took_ms * MARGIN + (before_s + 1) * 1000)
    for first in range(0, holds, GROUP):
        await rig.crowd.set_hold_ttl_ms(max(1, due_ms - await rig.now_ms()))
        await rig.crowd.reserve(min(GROUP, holds - first))
    await rig.crowd.set_hold_ttl_ms(int(ttl_ms or 0))
    return due_ms


async def _due(rig: Rig, due_ms: int) -> int:
    """How many of the deadlines in that second are still there."""
    pipeline = rig.stores.redis.pipeline(transaction=False)
    for zone_id in rig.hot.zone_ids:
        pipeline.zlexcount(rig.hot.keys.deadlines, f"[{zone_id}:", f"({zone_id}:{due_ms + WINDOW_MS}")
    return sum(await pipeline.execute())


async def _expire_calls(rig: Rig) -> tuple[list[int], int]:
    """Durations of the calls of expire.lua in the SLOWLOG, sorted, and the largest slice they asked for."""
    redis = rig.stores.redis
    await redis.config_set("slowlog-log-slower-than", -1)
    entries = await redis.slowlog_get(SLOWLOG_ENTRIES_MAX)
    await redis.slowlog_reset()
    sha = rig.stores.scripts["expire"].sha.encode()
    calls = [entry for entry in entries if sha in entry["command"]]
    if not calls:
        raise TargetError("SLOWLOG knows of no call of expire.lua")
    slice_max = max(int(entry["command"].rsplit(b" ", 1)[1]) for entry in calls)
    return sorted(entry["duration"] for entry in calls), slice_max
