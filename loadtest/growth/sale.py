"""Putting many events on sale at once: rows by the thousand, cells through the scripts that recovery uses."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import msgspec

from engine import ids
from engine.ids import CellId
from engine.keys import CellKeys
from engine.lift import Lifter
from engine.rebuild import CellBuilder
from engine.stores import Stores, connect_postgres, open_redis, script_runner

ZONES = 3
CAPACITY = 100_000_000
"""Of each zone: nothing here is ever sold out."""
PRICE_MINOR = 2_500
MAX_PER_USER = 4
HOLD_TTL_S = 3_600
"""The longest there is: what is held stays held for the whole run."""
OPENERS = 4

_INSERT_EVENTS = """
INSERT INTO events (id, organizer_id, title, slug, currency, status, sale_start_at, max_per_user,
    hold_ttl_seconds, booking_secret)
SELECT id, $2, 'Growth', 'growth-' || id, 'GBP', 'published', now() - interval '1 hour', $3, $4,
    sha256(id::text::bytea)
FROM unnest($1::uuid[]) AS id
"""
_INSERT_SHOWS = """
INSERT INTO shows (id, event_id, show_date)
SELECT id, event_id, now() + interval '30 days' FROM unnest($1::uuid[], $2::uuid[]) AS made (id, event_id)
"""
_INSERT_ZONES = """
INSERT INTO seat_zones (id, show_id, event_id, name, price_minor, max_per_order, capacity, available_seats)
SELECT id, show_id, event_id, 'zone ' || id, $4, 4, $5, $5
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS made (id, show_id, event_id)
"""
_INSERT_CELLS = """
INSERT INTO cells (event_ref, cell, event_id, epoch, replid, opened_at)
SELECT event_ref, cell, event_id, $4::bigint, $5, CASE WHEN $4::bigint > 0 THEN now() END
FROM unnest($1::bigint[], $2::int[], $3::uuid[]) AS made (event_ref, cell, event_id)
"""


class Sale(msgspec.Struct, frozen=True):
    """An event on sale."""

    event_id: UUID
    show_id: UUID
    zone_ids: list[UUID]

    @property
    def cell_id(self) -> CellId:
        """Its cell."""
        return ids.cell_of(self.event_id)

    @property
    def keys(self) -> CellKeys:
        """The Redis keys of its cell."""
        return CellKeys(self.cell_id)


def _new_sale() -> Sale:
    event_id = ids.new_event_id()
    event_ref = ids.event_ref_of(event_id)
    return Sale(event_id, ids.new_id(event_ref), [ids.new_id(event_ref) for _ in range(ZONES)])


async def insert_sales(
    connection: asyncpg.Connection | asyncpg.Pool, count: int, *, epoch: int, replid: str | None
) -> list[Sale]:
    """Write so many published events into Postgres; `epoch` 0 where recovery is still to open their cells."""
    sales = [_new_sale() for _ in range(count)]
    zones = [(zone_id, sale) for sale in sales for zone_id in sale.zone_ids]
    event_ids = [sale.event_id for sale in sales]
    await connection.execute(_INSERT_EVENTS, event_ids, uuid4(), MAX_PER_USER, HOLD_TTL_S)
    await connection.execute(_INSERT_SHOWS, [sale.show_id for sale in sales], event_ids)
    await connection.execute(
        _INSERT_ZONES,
        [zone_id for zone_id, _ in zones],
        [sale.show_id for _, sale in zones],
        [sale.event_id for _, sale in zones],
        PRICE_MINOR,
        CAPACITY,
    )
    cell_ids = [sale.cell_id for sale in sales]
    await connection.execute(
        _INSERT_CELLS,
        [cell_id.event_ref for cell_id in cell_ids],
        [cell_id.cell for cell_id in cell_ids],
        event_ids,
        epoch,
        replid,
    )
    return sales


async def open_sales(stores: Stores, sales: list[Sale], *, epoch: int) -> None:
    """Put the cells of these events into an empty Redis."""

    async def open_some(some: list[Sale]) -> None:
        connection = await connect_postgres(stores.settings, "growth opener")
        client = open_redis(stores.settings, single=True)
        try:
            run = script_runner(client, stores.scripts)
            for sale in some:
                builder = CellBuilder(sale.cell_id, connection, client, run, stores.settings)
                await builder.begin(epoch)
                await builder.rebuild(sale.event_id, epoch)
        finally:
            await client.aclose()
            await connection.close()

    await asyncio.gather(*[open_some(sales[number::OPENERS]) for number in range(OPENERS)])


class Opener:
    """Recovery's hands, as recovery has them: lifts the node, and opens a new event's cell the usual way."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._client = open_redis(stores.settings, single=True)

    async def start(self) -> str:
        """Lift the node, which has no cells yet; its replication id."""
        self._connection = await connect_postgres(self._stores.settings, "growth recovery")
        self._lifter = Lifter(self._stores, self._connection, self._client, lambda _: True)
        self._node = await self._lifter.look()
        await self._lifter.lift(self._node)
        return self._node.replid

    async def open(self, sale: Sale) -> None:
        """Open the cell of an event that was just published."""
        await self._lifter.recover_cell(sale.cell_id, self._node)

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()
        await self._connection.close()
