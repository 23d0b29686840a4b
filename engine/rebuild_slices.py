"""What Redis must know of a cell, read from Postgres slice by slice, each while the one before is written.

The texts are made in SQL and passed on as they are.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any
from uuid import UUID

import asyncpg

from engine import ids
from engine.ids import CellId
from engine.sql import load_queries

queries = load_queries("recovery")

HOLDS_MAX = 200
"""One script call puts so many bookings back with all that hangs on them: one or two milliseconds in which no
other cell is served."""
RECORDS_MAX = 500
"""So many if it is their units or their records alone."""


class Slices:
    """The slices of one cell, over one connection that nobody else uses meanwhile.

    Each is a row: `text` for the script, `bookings`, how many these are, and `last_id`, the highest.
    """

    def __init__(self, cell_id: CellId, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._first, self._last = ids.id_range(cell_id)

    async def count(self, rows_max: int) -> int:
        """How many records the cell must have, counted up to a bound."""
        count: int = await queries.records_up_to(
            self._connection, first=self._first, last=self._last, rows_max=rows_max
        )
        return count

    def units(self) -> AsyncGenerator[asyncpg.Record, None]:
        """What buyers have in bookings that are sold."""

        async def read(after: UUID) -> asyncpg.Record:
            row: asyncpg.Record = await queries.units_to_rebuild(
                self._connection, after=after, last=self._last, rows_max=RECORDS_MAX
            )
            return row

        return _ahead(read, self._first, RECORDS_MAX)

    def whole(self) -> AsyncGenerator[asyncpg.Record, None]:
        """All records."""
        return self._records(self._first, HOLDS_MAX, has_holds=True, has_others=True)

    def holds(self) -> AsyncGenerator[asyncpg.Record, None]:
        """Those of the holds."""
        return self._records(self._first, HOLDS_MAX, has_holds=True, has_others=False)

    def others(self, after: str) -> AsyncGenerator[asyncpg.Record, None]:
        """All others behind an id; empty for all."""
        begin = UUID(after) if after else self._first
        return self._records(begin, RECORDS_MAX, has_holds=False, has_others=True)

    def _records(
        self, begin: UUID, rows_max: int, *, has_holds: bool, has_others: bool
    ) -> AsyncGenerator[asyncpg.Record, None]:
        async def read(after: UUID) -> asyncpg.Record:
            row: asyncpg.Record = await queries.records_to_rebuild(
                self._connection,
                after=after,
                last=self._last,
                rows_max=rows_max,
                has_holds=has_holds,
                has_others=has_others,
            )
            return row

        return _ahead(read, begin, rows_max)


async def _ahead(
    read: Callable[[UUID], Coroutine[Any, Any, asyncpg.Record]], begin: UUID, rows_max: int
) -> AsyncGenerator[asyncpg.Record, None]:
    """Slice after slice; the next one is being read while one is in use."""
    reading: asyncio.Task[asyncpg.Record] | None = asyncio.create_task(read(begin))
    try:
        while reading is not None:
            row = await reading
            is_last = row["bookings"] < rows_max
            reading = None if is_last else asyncio.create_task(read(UUID(row["last_id"])))
            if row["bookings"]:
                yield row
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
