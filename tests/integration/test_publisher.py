"""The outbox is emptied, by whatever way costs least, and never of what is not committed yet."""

from uuid import uuid4

import asyncpg
import pytest

from engine.stores import Stores
from workers import publisher
from workers.publisher import Publisher

MANY = 30


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "BATCH_ROWS_MAX", MANY // 3)


async def write(database: asyncpg.Connection, count: int) -> None:
    await database.executemany(
        "INSERT INTO outbox (aggregate_type, aggregate_id, version, event_type, payload) "
        "VALUES ('booking', $1, 1, 'booking.reserved', '{}')",
        [(uuid4(),) for _ in range(count)],
    )


async def left(database: asyncpg.Connection) -> int:
    return int(await database.fetchval("SELECT count(*) FROM outbox"))


async def test_a_few_events_are_deleted_and_many_are_truncated(
    stores: Stores, database: asyncpg.Connection
) -> None:
    file = "SELECT pg_relation_filenode('outbox')"
    before = await database.fetchval(file)
    working = Publisher(stores)
    assert await working.step() == 0
    await write(database, 3)
    assert await working.step() == 3
    assert await database.fetchval(file) == before
    await write(database, MANY)
    assert await working.step() == MANY
    assert await database.fetchval(file) != before
    assert await left(database) == 0


async def test_what_somebody_is_just_writing_is_not_lost(
    stores: Stores, database: asyncpg.Connection
) -> None:
    await write(database, MANY)
    writer = await asyncpg.connect(stores.settings.database_url)
    try:
        async with writer.transaction():
            await write(writer, 2)
            working = Publisher(stores)
            taken = [await working.step() for _ in range(4)]
            assert taken == [MANY // 3, MANY // 3, MANY // 3, 0], (
                "deleted in batches, as far as it is committed"
            )
        assert await left(database) == 2
    finally:
        await writer.close()


async def test_while_a_backup_reads_the_outbox_nobody_waits_for_it(
    stores: Stores, database: asyncpg.Connection
) -> None:
    await write(database, MANY)
    reader = await asyncpg.connect(stores.settings.database_url)
    try:
        async with reader.transaction(isolation="repeatable_read"):
            assert await left(reader) == MANY
            working = Publisher(stores)
            while await working.step():
                pass
            assert await left(database) == 0
            assert await left(reader) == MANY, "what it reads stays"
    finally:
        await reader.close()
    await write(database, MANY)
    assert await working.step() == MANY // 3, "the table is left alone for a while"
