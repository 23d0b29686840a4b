"""Which cells there are, and the way to each: its keys and the secret of its booking ids.

Filled from Redis, so that reserving goes on while Postgres is away; Postgres is asked only about
cells that Redis does not know. Both answers are remembered, a bounded number of them.
"""

import asyncio
import contextlib
import time
from uuid import UUID

import msgspec

from engine import ids
from engine.errors import Fenced, NotFound, Overloaded, StoreUnavailable
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.stores import POSTGRES_ERRORS, Connection, Stores

CELLS_MAX = 20_000
UNKNOWN_MAX = 10_000
UNKNOWN_TTL_S = 1.0
LOOKUPS_MAX = 8
LOOKUPS_WAITING_MAX = 200
WAKE_INTERVAL_S = 0.5

RECOVERY_CHANNEL = "rush_recovery"
"""NOTIFY channel that wakes recovery; the payload is a cell's tag."""
OPENED_CHANNEL = "rush_opened"
"""NOTIFY channel on which recovery says that a cell is in a new epoch; the payload is its tag."""


class Cell(msgspec.Struct, frozen=True):
    """A cell that exists."""

    id: CellId
    keys: CellKeys
    secret: bytes


class CellDirectory:
    """The cells that this process has met."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._cells: dict[CellId, Cell] = {}
        self._unknown_until_s: dict[CellId, float] = {}
        self._woken_at_s: dict[CellId, float] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS_MAX)
        self._waiting = 0

    def known(self, cell_id: CellId) -> Cell | None:
        """The cell, if this process has met it."""
        return self._cells.get(cell_id)

    async def find(self, cell_id: CellId) -> Cell:
        """The cell; raises NotFound for one that was never published, Fenced for one that is not open."""
        cell = self._cells.get(cell_id)
        if cell is not None:
            return cell
        if self._unknown_until_s.get(cell_id, 0.0) > time.monotonic():
            raise NotFound
        if self._waiting >= LOOKUPS_WAITING_MAX:
            raise Overloaded
        self._waiting += 1
        try:
            async with self._lookups:
                return self._cells.get(cell_id) or await self._look_up(cell_id)
        finally:
            self._waiting -= 1

    async def _look_up(self, cell_id: CellId) -> Cell:
        keys = CellKeys(cell_id)
        secret = await self._stores.line.call("HGET", keys.sale, "secret")
        if secret is not None:
            return self._remember(Cell(id=cell_id, keys=keys, secret=bytes.fromhex(secret.decode())))
        try:
            secret = await self._stores.pool.fetchval(
                "SELECT e.booking_secret FROM cells c JOIN events e ON e.id = c.event_id "
                "WHERE c.event_ref = $1 AND c.cell = $2",
                *cell_id,
            )
        except POSTGRES_ERRORS:
            raise StoreUnavailable from None
        if secret is None:
            if len(self._unknown_until_s) >= UNKNOWN_MAX:
                self._unknown_until_s.clear()
            self._unknown_until_s[cell_id] = time.monotonic() + UNKNOWN_TTL_S
            raise NotFound
        return self._remember(Cell(id=cell_id, keys=keys, secret=secret))

    def _remember(self, cell: Cell) -> Cell:
        if len(self._cells) >= CELLS_MAX:
            del self._cells[next(iter(self._cells))]
        self._cells[cell.id] = cell
        return cell

    async def wake_recovery(self, cell_id: CellId) -> None:
        """Say that a cell which exists is not open. Never fails: recovery also looks by itself."""
        now_s = time.monotonic()
        if now_s - self._woken_at_s.get(cell_id, 0.0) < WAKE_INTERVAL_S:
            return
        if len(self._woken_at_s) >= CELLS_MAX:
            self._woken_at_s.clear()
        self._woken_at_s[cell_id] = now_s
        with contextlib.suppress(*POSTGRES_ERRORS):
            await self._stores.pool.execute("SELECT pg_notify($1, $2)", RECOVERY_CHANNEL, tag(cell_id))


async def publish_cell(connection: Connection, event_id: UUID) -> None:
    """Inside the caller's transaction: make the event's cell exist, and ask recovery to open it.

    A cell is opened by recovery alone, also the first time: if its row exists, what Redis holds has
    to be looked at before anything is sold.
    """
    cell_id = ids.cell_of(event_id)
    await connection.execute(
        "INSERT INTO cells (event_ref, cell, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        *cell_id,
        event_id,
    )
    await connection.execute("SELECT pg_notify($1, $2)", RECOVERY_CHANNEL, tag(cell_id))


async def wait_until_open(stores: Stores, event_id: UUID, timeout_ms: int) -> None:
    """Return once the event's cell is open; raises Fenced when it is not in time."""
    sale = CellKeys(ids.cell_of(event_id)).sale
    deadline_s = time.monotonic() + timeout_ms / 1000
    while time.monotonic() < deadline_s:
        if await stores.line.call("HEXISTS", sale, "epoch"):
            return
        await asyncio.sleep(0.02)
    raise Fenced("The event is published and will be on sale as soon as recovery has opened it; try again")
