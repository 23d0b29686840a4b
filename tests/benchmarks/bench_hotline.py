"""What a call costs this process: the hot line against redis-py, in one run.

    python -m tests.benchmarks.bench_hotline [--calls 20000] [--concurrency 200] [--rounds 5]

Both send the same EVALSHA (two keys, eight arguments, as a reserve has them) to the same embedded
server, from the same number of concurrent tasks on the same uvloop. redis-py is measured as it would
be used here: one client with a pool, a connection a task. Printed is the CPU time of this process per
call, the median of the interleaved rounds, and the ratio. The server's own CPU is not counted.
"""

import argparse
import asyncio
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop

from engine.hotline import HotLine
from tests.stores import RedisServer

SCRIPT = "return {0, ARGV[1], '1-1', 1764000000000}"
KEYS = ("{bench}:sale", "{bench}:booking")
ARGUMENTS = ("0199a1b2-0000-8000-8000-000000000001", "6f1d3f0e-6f0c-4f7e-9a53-2c8a2f6f0001", "-", 20, 10, 600)

Call = Callable[[], Awaitable[Any]]


async def cpu_us_per_call(call: Call, calls: int, concurrency: int) -> float:
    """CPU microseconds of this process per call, with `concurrency` tasks that call one after another."""

    async def caller() -> None:
        for _ in range(calls // concurrency):
            await call()

    started_s = time.process_time()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return (time.process_time() - started_s) / (calls // concurrency * concurrency) * 1e6


async def measure(url: str, calls: int, concurrency: int, rounds: int) -> dict[str, float]:
    """The median of each side."""
    client = redis.asyncio.Redis.from_url(url, max_connections=concurrency + 1)
    sha = await client.script_load(SCRIPT)
    line = HotLine(url, in_flight_max=concurrency, timeout_ms=10_000)
    await line.start()

    async def idle() -> None:
        await asyncio.sleep(0)

    sides: dict[str, Call] = {
        "hot line": lambda: line.call("EVALSHA", sha, 2, *KEYS, *ARGUMENTS),
        "redis-py": lambda: client.evalsha(sha, 2, *KEYS, *ARGUMENTS),
        "task alone": idle,
    }
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        await cpu_us_per_call(call, calls // 10, concurrency)
    for _ in range(rounds):
        for name, call in sides.items():
            measured[name].append(await cpu_us_per_call(call, calls, concurrency))
    await line.close()
    await client.aclose()
    return {name: statistics.median(values) for name, values in measured.items()}


def main() -> None:
    """Start a server, measure, print."""
    parser = argparse.ArgumentParser(description="CPU per call: the hot line against redis-py")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder) / "redis")
        server.start()
        try:
            medians = uvloop.run(measure(server.url, options.calls, options.concurrency, options.rounds))
        finally:
            server.kill()
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.concurrency} tasks at once")
    for name, value in medians.items():
        print(f"{name:>12}  {value:7.2f} µs CPU per call")
    print(f"{'ratio':>12}  redis-py / hot line = {medians['redis-py'] / medians['hot line']:.1f}")


if __name__ == "__main__":
    main()
