"""What is measured around a phase: processor time, the server's histogram, Redis' own books, the relay."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec

from engine.stores import Stores
from loadtest.bench_cpu import GROUPS, stack_books
from loadtest.bench_lag import Lag
from loadtest.bench_metrics import percentile_ms, read_buckets, since
from loadtest.bench_phase import PERCENTS, Seen
from loadtest.hot_requests import PATH
from loadtest.stack import OwnStack

DRAIN_TIMEOUT_S = 60.0
COMMANDS_SHOWN = 8
SCRIPT_COMMANDS = ("evalsha", "fcall")


class RedisCommand(msgspec.Struct, frozen=True):
    """One kind of command, by INFO commandstats."""

    name: str
    calls: int
    us_per_call: float


class Measured(msgspec.Struct, kw_only=True):
    """One phase against the whole stack."""

    seen: Seen
    cpu_us: dict[str, float]
    """Processor time for each answer, by group; the relay and Postgres until all was durable."""
    kernel_us: dict[str, float]
    """How much of it was spent in the kernel: sockets, files, the disk's cache."""
    server_ms: dict[str, float | None]
    """Percentiles by the server's own histogram, linear within a bucket."""
    lag_max_s: float
    lag_max_entries: int
    is_drained: bool
    redis_us: float
    """In scripts, by commandstats and with all that they call, for each answer."""
    redis_commands: list[RedisCommand]
    restarted: bool
    """A process was started again meanwhile: the processor times are not to be trusted."""

    @property
    def total_us(self) -> float:
        """Of all groups and the load generator."""
        return sum(self.cpu_us.values())


class Measure:
    """Runs a phase and measures around it."""

    def __init__(self, own: OwnStack, stores: Stores, event_id: UUID, say: Callable[[str], None]) -> None:
        self._own = own
        self._stores = stores
        self._event_id = event_id
        self._say = say

    async def around(self, what: str, phase: Callable[[], Awaitable[Seen]]) -> Measured:
        """Everything is idle before; afterwards this waits until all that was written is durable."""
        lag = Lag(self._stores, self._event_id, self._say)
        await lag.until_drained(DRAIN_TIMEOUT_S)
        url = self._own.target.url
        buckets = await asyncio.to_thread(read_buckets, url, PATH)
        await self._stores.redis.config_resetstat()
        before = await asyncio.to_thread(stack_books, self._own.pid)
        sampling = asyncio.create_task(lag.run(what))
        try:
            seen = await phase()
            is_drained = await lag.until_drained(DRAIN_TIMEOUT_S)
        finally:
            lag.is_over = True
            await sampling
        after = await asyncio.to_thread(stack_books, self._own.pid)
        commands = await self._commands()
        counted = since(await asyncio.to_thread(read_buckets, url, PATH), buckets)
        answers = max(1, sum(seen.answers.values()))
        used = after.since(before)
        cpu_us = {name: round(1e6 * used[name].all / answers, 2) for name in GROUPS}
        kernel_us = {name: round(1e6 * used[name].system / answers, 2) for name in GROUPS}
        return Measured(
            seen=seen,
            cpu_us=cpu_us | {"locust": seen.locust_us},
            kernel_us=kernel_us,
            server_ms={f"P{percent:g}": _rounded(percentile_ms(counted, percent)) for percent in PERCENTS},
            lag_max_s=round(lag.max_s, 3),
            lag_max_entries=lag.max_entries,
            is_drained=is_drained,
            redis_us=round(_script_us(commands) / answers, 2),
            redis_commands=commands[:COMMANDS_SHOWN],
            restarted=before.pids != after.pids,
        )

    async def _commands(self) -> list[RedisCommand]:
        """Those that took most of Redis' time first; what scripts call is within EVALSHA too."""
        found = await self._stores.redis.info("commandstats")
        commands = [
            RedisCommand(name.removeprefix("cmdstat_"), int(each["calls"]), float(each["usec_per_call"]))
            for name, each in found.items()
            if isinstance(each, dict)
        ]
        return sorted(commands, key=lambda each: -each.calls * each.us_per_call)


def _script_us(commands: list[RedisCommand]) -> float:
    """What scripts took in all; the commands that they call are in it, and stand in the list once more."""
    return sum(each.calls * each.us_per_call for each in commands if each.name in SCRIPT_COMMANDS)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
