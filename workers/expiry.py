"""The sweeper: takes back holds whose deadline has passed. The deadline decides, not the sweeper: it
only returns the seats sooner than the next reserve that needs them would.

Any number may run. A cell is asked again when its next hold falls due, and since no new hold can be due
before the hold time has passed, an idle cell costs one call in that time.
"""

import asyncio
import contextlib
import heapq
import logging
import time

from engine.errors import RushError
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.projection import queries
from engine.scripts import ScriptFailed
from engine.status import Status
from engine.stores import POSTGRES_ERRORS, Stores
from observability.metrics import counter
from workers.backoff import Backoff, sleep_unless

log = logging.getLogger(__name__)
_holds_expired = counter("holds_expired_total")

CELLS_INTERVAL_S = 1.0
PAUSE_MAX_S = 5.0
"""An organizer may shorten the hold time meanwhile."""
IDLE_CELLS_PER_SECOND_MAX = 500
"""With many cells, one in which nothing falls due is asked less often than that."""
NOT_OPEN_PAUSE_S = 0.5
IDLE_S = 0.05
CALLS_MAX = 50
"""Cells asked in one tick."""


class Expiry:
    """The schedule of one sweeper."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._due: list[tuple[float, CellId]] = []
        self._cells: set[CellId] = set()

    async def refresh_cells(self) -> None:
        """Learn of new cells and forget closed ones; while Postgres is away the old list serves."""
        cells = {CellId(row["event_ref"], row["cell"]) async for row in queries.open_cells(self._stores.pool)}
        for cell_id in cells - self._cells:
            heapq.heappush(self._due, (0.0, cell_id))
        self._cells = cells

    async def step(self) -> int:
        """Ask the cells whose time has come; the number of holds taken back."""
        asked: list[CellId] = []
        while self._due and self._due[0][0] <= time.monotonic() and len(asked) < CALLS_MAX:
            _, cell_id = heapq.heappop(self._due)
            if cell_id in self._cells:
                asked.append(cell_id)
        results = await asyncio.gather(*[self._ask(cell_id) for cell_id in asked])
        for cell_id, (_, pause_s) in zip(asked, results, strict=True):
            heapq.heappush(self._due, (time.monotonic() + pause_s, cell_id))
        return sum(taken_back for taken_back, _ in results)

    async def _ask(self, cell_id: CellId) -> tuple[int, float]:
        """Take back one slice of a cell: how many, and the seconds until it is asked again."""
        keys = CellKeys(cell_id)
        try:
            reply = await self._stores.run(
                "expire",
                [keys.sale, keys.buyers, keys.ledger, keys.deadlines],
                self._stores.settings.expiry_slice_max,
            )
            failpoint("expiry.after_expire")
        except RushError:
            return 0, NOT_OPEN_PAUSE_S
        except ScriptFailed:
            log.exception("%s cannot be swept", tag(cell_id))
            return 0, PAUSE_MAX_S
        if reply[0] != Status.OK:
            return 0, NOT_OPEN_PAUSE_S
        _, _, taken_back, next_due_at_ms, now_ms, hold_ttl_ms = reply
        if taken_back:
            _holds_expired.inc(taken_back)
        wait_ms = min(hold_ttl_ms, next_due_at_ms - now_ms if next_due_at_ms else hold_ttl_ms)
        pause_max_s = max(PAUSE_MAX_S, len(self._cells) / IDLE_CELLS_PER_SECOND_MAX)
        return taken_back, min(max(wait_ms, 0) / 1000, pause_max_s)


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Sweep until `stop`, through outages of either store."""
    expiry = Expiry(stores)
    # Beside the sweeping, not in front of it: a Postgres that hangs must not hold up deadlines.
    learning = asyncio.create_task(_learn_cells(expiry, stop))
    while not stop.is_set() and not learning.done():
        if not await expiry.step():
            await sleep_unless(stop, IDLE_S)
    learning.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await learning


async def _learn_cells(expiry: Expiry, stop: asyncio.Event) -> None:
    backoff = Backoff("expiry")
    while not stop.is_set():
        try:
            await expiry.refresh_cells()
            backoff.succeeded()
            pause_s = CELLS_INTERVAL_S
        except POSTGRES_ERRORS as error:
            pause_s = backoff.failed(error)
        await sleep_unless(stop, pause_s)
