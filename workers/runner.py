"""Running workers: any of them, together in one process."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from engine import failpoints
from engine.settings import Settings
from engine.stores import Stores, open_stores
from workers import admission, auditor, expiry, lottery, publisher, recovery, relay

log = logging.getLogger(__name__)

GARBAGE_OBJECTS_MAX = 50_000
"""So many new objects before Python looks for cycles among them. A batch of the relay makes thousands that
all go with it, and to look through them again and again was a tenth of its time."""

Worker = Callable[[Stores, asyncio.Event], Coroutine[Any, Any, None]]

WORKERS: dict[str, Worker] = {
    "recovery": recovery.run,
    "relay": relay.run,
    "expiry": expiry.run,
    "admission": admission.run,
    "lottery": lottery.run,
    "publisher": publisher.run,
    "auditor": auditor.run,
}


async def run_workers(settings: Settings, names: list[str], stop: asyncio.Event) -> None:
    """Run these workers until `stop`; raises ValueError for a name that is none of WORKERS."""
    unknown = [name for name in names if name not in WORKERS]
    if unknown:
        raise ValueError(f"there is no worker {unknown[0]!r}; there are: {', '.join(WORKERS)}")
    stores = await open_stores(settings, "-".join(names))
    log.info("working: %s", ", ".join(names))
    try:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(WORKERS[name](stores, stop), name=name)
    finally:
        await stores.close()


def expect_batches() -> None:
    """Set this process up for work in batches."""
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MAX)


async def _until_signal(settings: Settings, names: list[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_workers(settings, names, stop)


def run(settings: Settings, names: list[str]) -> None:
    """Run these workers (all when none is named) until SIGINT or SIGTERM."""
    failpoints.arm(settings.failpoint)
    expect_batches()
    uvloop.run(_until_signal(settings, names or list(WORKERS)))
