"""The relay as bench_relay measures it: pinned to a core, with samples of where its time goes."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from engine.settings import Settings
from observability.metrics import REGISTRY
from workers.runner import expect_batches, run_workers

SAMPLE_S = 0.001
SETTLE_S = 1.0
"""What a worker does when it starts is not what an entry costs."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PARTS = {
    "/redis/": "read",
    "/engine/ledger": "decode",
    "/engine/fold": "fold",
    "/asyncpg/": "SQL",
    "/engine/rows": "SQL",
    "/engine/projection": "SQL",
    "/engine/lease": "other",
    "/workers/": "other",
}
"""What a sample counts as: by the innermost frame that stands here."""


def _stat(pid: int) -> list[int]:
    return [int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_s_of(pid: int) -> float:
    """The CPU seconds of a process with all its children, those that have ended included."""
    ticks = sum(_stat(pid))
    for child in _children(pid):
        try:
            ticks += sum(_stat(child))
        except FileNotFoundError:
            continue
    return ticks / _TICKS


def pin(pid: int, core: int) -> None:
    """Keep a process and its children, present and future, to one core."""
    for one in (pid, *_children(pid)):
        os.sched_setaffinity(one, {core})


def _part_of(frame: FrameType | None) -> str:
    while frame is not None:
        for path, part in _PARTS.items():
            if path in frame.f_code.co_filename:
                return part
        frame = frame.f_back
    return "loop"


async def carry(settings: Settings, core: int) -> None:
    """Work; say `ready`, and what it took from the next line that comes until the one after it."""
    pin(os.getpid(), core)
    samples: Counter[str] = Counter()

    def sample(_: int, frame: FrameType | None) -> None:
        samples[_part_of(frame)] += 1

    stop = asyncio.Event()
    expect_batches()
    working = asyncio.create_task(run_workers(settings, ["relay", "publisher"], stop))
    await asyncio.sleep(SETTLE_S)
    await _say("ready")
    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
    before_s, started_s = time.process_time(), time.monotonic()
    await _say("begun")
    cpu_s, wall_s = time.process_time() - before_s, time.monotonic() - started_s
    signal.setitimer(signal.ITIMER_PROF, 0)
    total = sum(samples.values())
    split = {part: count / total * cpu_s for part, count in sorted(samples.items())}
    batches = REGISTRY.get_sample_value("relay_batches_total", {"outcome": "committed"})
    print(
        json.dumps({"cpu_s": cpu_s, "split": split | {"wait": wall_s - cpu_s}, "batches": batches}),
        flush=True,
    )
    stop.set()
    await working


async def _say(what: Any) -> None:
    """Print it, then wait for the parent's next line."""
    print(json.dumps(what), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
