"""The publisher: empties the outbox. With no sink configured there is nobody to tell, so it deletes."""

import asyncio

from engine.sql import load_queries
from engine.stores import POSTGRES_ERRORS, Stores
from observability.metrics import counter
from workers.backoff import Backoff, sleep_unless

queries = load_queries("outbox")
_deleted = counter("outbox_deleted_total")

BATCH_ROWS_MAX = 5_000
IDLE_S = 0.5


async def step(stores: Stores) -> int:
    """Take one batch out of the outbox; the number of rows."""
    done: str = await queries.delete_events(stores.pool, rows_max=BATCH_ROWS_MAX)
    count = int(done.rpartition(" ")[2])
    _deleted.inc(count)
    return count


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Publish until `stop`, through outages of Postgres."""
    backoff = Backoff("the publisher")
    while not stop.is_set():
        try:
            count = await step(stores)
            backoff.succeeded()
            if count < BATCH_ROWS_MAX:
                await sleep_unless(stop, IDLE_S)
        except POSTGRES_ERRORS as error:
            await sleep_unless(stop, backoff.failed(error))
