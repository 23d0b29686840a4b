"""One task for each master that cells live on, as long as it is one: what befalls a node is the business of
its own task."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from engine.lease import Lease
from engine.stores import Master, Stores
from workers.backoff import sleep_unless

POLL_S = 0.2

Work = Callable[[Master, asyncio.Event], Coroutine[Any, Any, None]]
"""Works on a master until the event is set; what it can live with it handles itself."""


class _Hand(msgspec.Struct):
    """Who works on a master."""

    task: asyncio.Task[None]
    stop: asyncio.Event


async def on_each_master(stores: Stores, stop: asyncio.Event, lease: Lease, work: Work) -> None:
    """Work on every master until `stop`, or until the lease is lost; raises what one of the tasks raised."""
    hands: dict[str, _Hand] = {}
    ending: set[asyncio.Task[None]] = set()
    try:
        while not stop.is_set() and not lease.is_lost:
            masters = {f"{master.name} {master}": master for master in stores.line.masters()}
            for name in hands.keys() - masters.keys():
                hand = hands.pop(name)
                hand.stop.set()
                ending.add(hand.task)
            for name in masters.keys() - hands.keys():
                own_stop = asyncio.Event()
                task = asyncio.create_task(work(masters[name], own_stop), name=f"on {masters[name]}")
                hands[name] = _Hand(task, own_stop)
            ending = _not_done(ending)
            _not_done({hand.task for hand in hands.values()})
            await sleep_unless(stop, POLL_S)
        for hand in hands.values():
            hand.stop.set()
        await asyncio.gather(*ending, *[hand.task for hand in hands.values()])
    finally:
        left = [*ending, *[hand.task for hand in hands.values()]]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _not_done(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    done = {task for task in tasks if task.done()}
    for task in done:
        task.result()
    return tasks - done
