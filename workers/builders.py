"""Large cells are rebuilt beside recovery's other work, which must not wait for them for a minute."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import redis

from engine.errors import RushError
from engine.ids import CellId
from engine.keys import tag
from engine.lift import Lifter, NotLiftable
from engine.rebuild import BuildVoid
from engine.stores import POSTGRES_ERRORS

log = logging.getLogger(__name__)

BUILDERS_MAX = 2
RETRY_S = 1.0
STARTING_S = 5.0

OpenLifter = Callable[[], AbstractAsyncContextManager[Lifter]]
"""Opens hands with connections of their own."""


class Builders:
    """The rebuilds that are under way. What fails here, or is not begun, recovery finds again."""

    def __init__(self, open_lifter: OpenLifter) -> None:
        self._open_lifter = open_lifter
        self._tasks: dict[CellId, asyncio.Task[None]] = {}
        self._started_s: dict[CellId, float] = {}

    def is_busy(self, cell_id: CellId) -> bool:
        """Whether the cell is being rebuilt, or was a moment ago."""
        return cell_id in self._tasks

    def is_starting(self, cell_id: CellId) -> bool:
        """Whether a rebuild has begun so lately that it may not have got to the cell's keys yet."""
        return self.is_busy(cell_id) and time.monotonic() - self._started_s[cell_id] < STARTING_S

    def start(self, cell_id: CellId) -> None:
        """Begin to rebuild a cell, or to go on with it. What was done for an earlier epoch of it ends."""
        before = self._tasks.get(cell_id)
        if before is None and len(self._tasks) >= BUILDERS_MAX:
            return
        self._started_s[cell_id] = time.monotonic()
        self._tasks[cell_id] = asyncio.create_task(self._build(cell_id, before))

    async def close(self) -> None:
        """Leave all of it to whoever comes next."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _build(self, cell_id: CellId, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                before.cancel()
                await asyncio.wait([before])
            async with self._open_lifter() as lifter:
                await lifter.build(cell_id)
        except (
            *POSTGRES_ERRORS,
            redis.RedisError,
            RushError,
            NotLiftable,
            BuildVoid,
            msgspec.MsgspecError,
        ) as error:
            log.warning("the rebuild of %s stops: %s: %s", tag(cell_id), type(error).__name__, error)
            await asyncio.sleep(RETRY_S)
        finally:
            if self._tasks.get(cell_id) is asyncio.current_task():
                del self._tasks[cell_id]
                del self._started_s[cell_id]
