"""Which cells there are, and the way to each: its keys and the secret of its booking ids.

Filled from Redis, so that reserving goes on while Postgres is away; Postgres is asked only about
cells that Redis does not know. Both answers are remembered, a bounded number of them.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast
from uuid import UUID

import msgspec

from engine import ids
from engine.errors import Fenced, NotFound, Overloaded, StoreUnavailable
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.stores import POSTGRES_ERRORS, Connection, Stores

CELLS_MAX = 20_000
UNKNOWN_MAX = 10_000
UNKNOWN_TTL_S = 1.0
LOOKUPS_MAX = 8
LOOKUPS_WAITING_MAX = 200
"""Cells that are being looked up; how many ask for each does not matter."""
LOOKUP_TIMEOUT_S = 2.0
"""Postgres may hang as well as be away, and a buyer is to be answered all the same."""
CLOSED_TTL_S = 0.5
WAKE_INTERVAL_S = 0.5
SEED_BYTES = 32
"""Of a lottery's secret half."""

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
        self._open_until_s: dict[CellId, float] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS_MAX)
        self._asked: dict[tuple[str, CellId], asyncio.Task[Any]] = {}

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
        return cast(Cell, await self._ask_once("find", cell_id, self._look_up))

    async def is_closed(self, cell_id: CellId) -> bool:
        """Whether a cell that is not open has left Redis for good; raises StoreUnavailable.

        A rush on a cell that is not open asks Postgres once in a while, not once for each buyer.
        """
        if self._open_until_s.get(cell_id, 0.0) > time.monotonic():
            return False
        return cast(bool, await self._ask_once("closed", cell_id, self._look_whether_closed))

    async def _ask_once(
        self, question: str, cell_id: CellId, look: Callable[[CellId], Coroutine[Any, Any, object]]
    ) -> object:
        """The answer to one question about a cell: however many ask at once, it is looked up once."""
        asked = (question, cell_id)
        task = self._asked.get(asked)
        if task is None:
            if len(self._asked) >= LOOKUPS_WAITING_MAX:
                raise Overloaded
            task = self._asked[asked] = asyncio.create_task(self._in_turn(look, cell_id))
            task.add_done_callback(lambda done: self._answered(asked, done))
        # Whoever hangs up must not take the answer away from the others.
        return await asyncio.shield(task)

    async def _in_turn(
        self, look: Callable[[CellId], Coroutine[Any, Any, object]], cell_id: CellId
    ) -> object:
        async with self._lookups:
            return await look(cell_id)

    def _answered(self, asked: tuple[str, CellId], task: asyncio.Task[Any]) -> None:
        self._asked.pop(asked, None)
        if not task.cancelled():
            # Perhaps nobody waits any more; asyncio must not complain about that.
            task.exception()

    async def _look_up(self, cell_id: CellId) -> Cell:
        keys = CellKeys(cell_id)
        secret = await self._stores.line.call("HGET", keys.sale, "secret")
        if secret is not None:
            return self._remember(Cell(id=cell_id, keys=keys, secret=bytes.fromhex(secret.decode())))
        secret = await self._fetch(
            "SELECT e.booking_secret FROM cells c JOIN events e ON e.id = c.event_id "
            "WHERE c.event_ref = $1 AND c.cell = $2",
            cell_id,
        )
        if secret is None:
            if len(self._unknown_until_s) >= UNKNOWN_MAX:
                self._unknown_until_s.clear()
            self._unknown_until_s[cell_id] = time.monotonic() + UNKNOWN_TTL_S
            raise NotFound
        return self._remember(Cell(id=cell_id, keys=keys, secret=secret))

    async def _look_whether_closed(self, cell_id: CellId) -> bool:
        closed = await self._fetch(
            "SELECT closed_at IS NOT NULL FROM cells WHERE event_ref = $1 AND cell = $2", cell_id
        )
        if not closed:
            if len(self._open_until_s) >= CELLS_MAX:
                self._open_until_s.clear()
            self._open_until_s[cell_id] = time.monotonic() + CLOSED_TTL_S
        return bool(closed)

    async def _fetch(self, query: str, cell_id: CellId) -> Any:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return await self._stores.pool.fetchval(query, *cell_id)
        except POSTGRES_ERRORS:
            raise StoreUnavailable from None

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
            failpoint("cells.after_waking")


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
    failpoint("cells.after_cell")
    # Committed to before anybody can join: who knew the seed later could not have chosen it then.
    seed = secrets.token_bytes(SEED_BYTES)
    await connection.execute(
        "INSERT INTO waiting_rooms (event_ref, cell, mode, public_round, seed, commitment) "
        "SELECT $1, $2, waiting_room->>'mode', waiting_room->>'public_round', "
        "CASE WHEN waiting_room->>'mode' = 'lottery' THEN $4::bytea END, "
        "CASE WHEN waiting_room->>'mode' = 'lottery' THEN $5::bytea END "
        "FROM events WHERE id = $3 AND jsonb_typeof(waiting_room) = 'object' ON CONFLICT DO NOTHING",
        *cell_id,
        event_id,
        seed,
        hashlib.sha256(seed).digest(),
    )
    failpoint("cells.after_waiting_room")
    await connection.execute("SELECT pg_notify($1, $2)", RECOVERY_CHANNEL, tag(cell_id))
    failpoint("cells.after_asking")


async def wait_until_open(stores: Stores, event_id: UUID, timeout_ms: int) -> None:
    """Return once the event's cell is open; raises Fenced when it is not in time."""
    sale = CellKeys(ids.cell_of(event_id)).sale
    deadline_s = time.monotonic() + timeout_ms / 1000
    while time.monotonic() < deadline_s:
        if await stores.line.call("HEXISTS", sale, "epoch"):
            return
        await asyncio.sleep(0.02)
    raise Fenced("The event is published and will be on sale as soon as recovery has opened it; try again")
