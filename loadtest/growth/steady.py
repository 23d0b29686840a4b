"""A steady stream of reservations beside something else, and how long each of them took."""

import asyncio
import time

import msgspec

from engine.errors import RushError
from loadtest.growth.crowd import Crowd
from loadtest.verdict import percentiles

LATE_MAX_S = 30.0
"""How long the last reservations of a stream may take."""


class Latency(msgspec.Struct):
    """Milliseconds, from when each reservation was due: what waits for a busy process counts."""

    reserves: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def latency_of(values_ms: list[float]) -> Latency:
    """The percentiles of these."""
    p50, _, p99, highest = percentiles(values_ms)
    return Latency(len(values_ms), p50, p99, highest)


class Steady:
    """Reservations at a constant rate, however long the answers take: `async with Steady(...) as stream`."""

    def __init__(self, crowd: Crowd, rate_per_s: float) -> None:
        self._crowd = crowd
        self._interval_s = 1 / rate_per_s
        self._latencies_ms: list[float] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._failed: Exception | None = None

    async def __aenter__(self) -> "Steady":
        self._pacing = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pacing.cancel()
        await asyncio.wait({self._pacing})
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=LATE_MAX_S)

    def take(self) -> Latency:
        """Of all that were answered since the last time; raises what one of them raised."""
        if self._failed is not None:
            raise self._failed
        values_ms, self._latencies_ms = self._latencies_ms, []
        return latency_of(values_ms)

    async def settled(self) -> None:
        """Return when all that are under way now have been answered."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=LATE_MAX_S)

    async def _pace(self) -> None:
        due_s = time.perf_counter()
        while True:
            due_s += self._interval_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            task = asyncio.create_task(self._reserve(due_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _reserve(self, due_s: float) -> None:
        try:
            await self._crowd.reserve_one()
        except RushError as error:
            self._failed = error
        self._latencies_ms.append((time.perf_counter() - due_s) * 1000)
