"""The publisher: empties the outbox. With no sink configured there is nobody to tell, so it makes room."""

import asyncio
import time

import asyncpg

from engine.failpoints import failpoint
from engine.sql import load_queries
from engine.stores import POSTGRES_ERRORS, Stores
from observability.metrics import counter
from workers.backoff import Backoff, sleep_unless

queries = load_queries("outbox")
_deleted = counter("outbox_deleted_total")

BATCH_ROWS_MAX = 5_000
INTERVAL_S = 2.0
COUNTED_MAX = 200_000
"""The relay waits while rows are counted to be truncated: the metric knows no more of them."""
NO_TRUNCATE_S = 60.0
"""How long rows are deleted after somebody was found to read the table, as a backup may for hours."""


class Publisher:
    """Takes rows out of the outbox.

    Deleting a row costs Postgres nearly as much as writing it, and leaves it to be vacuumed. So what a rush
    leaves is truncated.
    """

    def __init__(self, stores: Stores) -> None:
        self._pool = stores.pool
        self._truncate_from_s = 0.0

    async def step(self) -> int:
        """Take out one batch, or all; the number of rows."""
        count = int(await queries.count_events(self._pool, rows_max=BATCH_ROWS_MAX))
        if count == BATCH_ROWS_MAX and time.monotonic() >= self._truncate_from_s:
            try:
                count = await self._truncate()
            except asyncpg.LockNotAvailableError:
                self._truncate_from_s = time.monotonic() + NO_TRUNCATE_S
                count = await self._delete()
        elif count:
            count = await self._delete()
        _deleted.inc(count)
        return count

    async def _truncate(self) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            await queries.limit_lock_wait(connection)
            await queries.lock_outbox(connection)
            count = int(await queries.count_events(connection, rows_max=COUNTED_MAX))
            await queries.truncate_outbox(connection)
            failpoint("publisher.after_truncate")
        failpoint("publisher.after_commit")
        return count

    async def _delete(self) -> int:
        done: str = await queries.delete_events(self._pool, rows_max=BATCH_ROWS_MAX)
        failpoint("publisher.after_deletion")
        return int(done.rpartition(" ")[2])


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Publish until `stop`, through outages of Postgres."""
    backoff = Backoff("the publisher")
    publisher = Publisher(stores)
    while not stop.is_set():
        try:
            count = await publisher.step()
            backoff.succeeded()
            if count != BATCH_ROWS_MAX:
                await sleep_unless(stop, INTERVAL_S)
        except POSTGRES_ERRORS as error:
            await sleep_unless(stop, backoff.failed(error))
