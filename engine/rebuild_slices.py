"""What Redis must know of a cell, read from Postgres slice by slice, each while the one before is written.

The texts are made in SQL and passed on as they are. Each statement looks at a bounded number of rows, however
few of them are wanted: a cell may have a million bookings of which a hundred still live.
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
PLACES_MAX = 1_000
"""So many people of a waiting room."""
LOOKED_MAX = 10_000
"""One statement looks at so many bookings."""
COUNTED_MAX = 100_000
"""So many when the records of a cell are counted: one that has more is large, whatever they are."""

Slice = AsyncGenerator[asyncpg.Record, None]


class Slices:
    """The slices of one cell, over one connection that nobody else uses meanwhile.

    Of bookings each is a row: `text` for the script, `bookings`, how many these are, and `last_id`, where it
    ends.
    """

    def __init__(self, cell_id: CellId, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._cell = {"event_ref": cell_id.event_ref, "cell": cell_id.cell}
        self._first, self._last = ids.id_range(cell_id)

    async def has_more_than(self, records_max: int) -> bool:
        """Whether the cell has more records, or so many bookings that nobody should count them."""
        row = await queries.records_up_to(
            self._connection, first=self._first, last=self._last, looked_max=COUNTED_MAX
        )
        return bool(row["records"] > records_max or row["has_more"])

    def units(self) -> Slice:
        """What buyers have in bookings that are sold."""

        async def read(after: UUID) -> asyncpg.Record:
            row: asyncpg.Record = await queries.units_to_rebuild(
                self._connection, after=after, last=self._last, rows_max=RECORDS_MAX, looked_max=LOOKED_MAX
            )
            return row

        return _ahead(read, self._first, "last_id", "bookings")

    def whole(self) -> Slice:
        """All records."""
        return self._records(self._first, HOLDS_MAX, has_holds=True, has_others=True)

    def holds(self) -> Slice:
        """Those of the holds."""
        return self._records(self._first, HOLDS_MAX, has_holds=True, has_others=False)

    def others(self, after: str) -> Slice:
        """All others behind an id; empty for all."""
        begin = UUID(after) if after else self._first
        return self._records(begin, RECORDS_MAX, has_holds=False, has_others=True)

    def _records(self, begin: UUID, rows_max: int, *, has_holds: bool, has_others: bool) -> Slice:
        async def read(after: UUID) -> asyncpg.Record:
            row: asyncpg.Record = await queries.records_to_rebuild(
                self._connection,
                after=after,
                last=self._last,
                rows_max=rows_max,
                looked_max=LOOKED_MAX,
                has_holds=has_holds,
                has_others=has_others,
            )
            return row

        return _ahead(read, begin, "last_id", "bookings")

    def places(self) -> Slice:
        """The living places of the waiting room: `numbers`, and `users`, sixteen bytes for each."""

        async def read(after: int) -> asyncpg.Record:
            row: asyncpg.Record = await queries.places_to_rebuild(
                self._connection, after=after, rows_max=PLACES_MAX, **self._cell
            )
            return row

        return _ahead(read, 0, "last_number", "people")

    def passes(self) -> Slice:
        """The passes of the waiting room that have not ended: `passes` and `spent`, JSON."""

        async def read(after: UUID) -> asyncpg.Record:
            row: asyncpg.Record = await queries.passes_to_rebuild(
                self._connection, after=after, rows_max=PLACES_MAX, **self._cell
            )
            return row

        return _ahead(read, UUID(int=0), "last_user", "people")


async def _ahead(
    read: Callable[[Any], Coroutine[Any, Any, asyncpg.Record]], begin: Any, cursor: str, count: str
) -> Slice:
    """Slice after slice; the next one is being read while one is in use.

    A row says `is_last`, in the column `cursor` where it ends, and in `count` how much is in it.
    """
    reading: asyncio.Task[asyncpg.Record] | None = asyncio.create_task(read(begin))
    try:
        while reading is not None:
            row = await reading
            after = UUID(row[cursor]) if isinstance(row[cursor], str) else row[cursor]
            reading = None if row["is_last"] else asyncio.create_task(read(after))
            if row[count]:
                yield row
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
